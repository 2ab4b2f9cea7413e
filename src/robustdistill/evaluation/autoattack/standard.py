"""The standard ensemble: APGD-CE, APGD-T, FAB-T and Square, each on the images that still stand."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robustdistill.arithmetic import quick_convolutions
from robustdistill.evaluation.autoattack import apgd, fab, flags, square
from robustdistill.evaluation.autoattack.replay import Loop, loop_on
from robustdistill.evaluation.autoattack.units import unit_key
from robustdistill.evaluation.autoattack.wave import Found, Wave, in_chunks, right
from robustdistill.evaluation.keep import Keep
from robustdistill.logits import Forward
from robustdistill.types import Outcome, Progress, Stage, Watch
from robustdistill.world import current


@dataclass(frozen=True)
class Part:
    """One attack of the ensemble: `run(wave, **params)`, and what it costs an image that stays right.

    `passes(classes, **params)` are the forwards and backwards of such an image.
    """

    name: str
    run: Callable[..., Found]
    params: Mapping[str, Any]
    passes: Callable[..., tuple[int, int]]


def clean(wave: Wave) -> Found:
    """No attack: broken is what is wrong to begin with."""
    return ~_right(wave.forward, wave.x, wave.y, wave.physical), wave.x


CLEAN = Part("clean", clean, {}, lambda classes: (1, 0))
STANDARD = (
    Part("apgd-ce", apgd.apgd_ce, {"steps": 100}, apgd.ce_passes),
    Part("apgd-t", apgd.apgd_t, {"steps": 100, "targets": 9}, apgd.t_passes),
    Part("fab-t", fab.fab_t, {"steps": 100, "targets": 9}, fab.passes),
    Part("square", square.square, {"queries": 5000}, square.passes),
)


def autoattack(
    forward: Forward,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    seed: int = 0,
    logical_batch: int = 250,
    physical_batch: int = 250,
    attacks: Sequence[Part] = STANDARD,
    fingerprint: str = "",
    keep: Keep | None = None,
    watch: Watch | None = None,
    loop: Loop | None = None,
) -> Outcome:
    """Attacks images x `[N, C, H, W]` (uint8, or float in [0, 1]) with labels y `[N]` in the L-inf ball of `eps`.

    `forward` gives logits in full precision (call this within `true_float32`), deterministically, on the device of x,
    of a network that is frozen and in eval mode. Each attack takes the images that stand, in order, `logical_batch` at
    a time, and draws the numbers that the official code draws from `seed` for its batches of that size.
    `physical_batch`, the most images in one forward, may be smaller or larger. It changes no draw and no rule: only the
    last bit where a kernel rounds otherwise at another batch size. An image counts as broken if a fresh forward says so
    after its unit and once more at the end.
    On a GPU, unless TF32 is turned off, attacks search in TF32, every such forward is in float32, and what it denies is
    attacked again in float32; `loop` records steps as CUDA graphs where that repays.

    With `keep`, units that were finished before are not run again; `fingerprint` names model and data (see
    `keep.fingerprint`) where it holds those of several. `watch` hears of each unit once it is kept. Several
    processes share the units of each attack. Raises UserError for what cannot be judged.
    """
    x, y = flags.checked(forward, x, y, eps, physical_batch)
    job = _Job(forward, x, y, eps, seed, logical_batch, physical_batch, fingerprint, keep, loop or loop_on(x.device))
    x_adv, standing = x.clone(), torch.ones_like(y, dtype=torch.bool)
    stages: list[Stage] = []
    notes: list[str] = []
    with torch.no_grad():
        notes += flags.of_model(forward, x[:physical_batch], y[:physical_batch])
        for part in (CLEAN, *attacks):
            began, units, denied = time.perf_counter(), job.units(standing), 0
            for done, (ids, unit) in enumerate(_results_of_all(job, part, units), 1):
                standing[ids[unit["broken"]]], x_adv[ids[unit["broken"]]] = False, unit["images"]
                denied += int((unit["claimed"] & ~unit["broken"]).sum())
                if watch:
                    watch(Progress(part.name, done, len(units), int(standing.sum())))
            notes += flags.of_attack(part.name, denied)
            stages.append(Stage(part.name, standing.clone().cpu(), time.perf_counter() - began))
        regained = ~standing & _right(forward, x_adv, y, physical_batch)
        x_adv[regained] = x[regained]
        notes += flags.of_end(regained)
    stages = [replace(s, correct=s.correct | regained.cpu()) for s in stages]  # the waterfall never rises
    return Outcome(x_adv, tuple(stages), (*notes, *flags.of_stages(stages)))


@dataclass(frozen=True)
class _Job:
    """What stays the same from the first attack to the last."""

    forward: Forward
    x: Tensor
    y: Tensor
    eps: float
    seed: int
    logical: int
    physical: int
    fingerprint: str
    keep: Keep | None
    loop: Loop

    def units(self, standing: Tensor) -> list[Tensor]:
        """The ids of the images of each logical batch."""
        return [ids for ids in torch.split(standing.nonzero()[:, 0], self.logical) if len(ids)]

    def key(self, part: Part, ids: Tensor) -> str:
        return unit_key(part.name, part.params, ids, eps=self.eps, seed=self.seed, fingerprint=self.fingerprint)


def _results_of_all(job: _Job, part: Part, units: Sequence[Tensor]) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
    """Those of `_results`, of which several processes find each its own."""
    here = current()
    if here.size == 1:
        yield from _results(job, part, units)
        return

    def own() -> list[tuple[Tensor, Mapping[str, Tensor]]]:
        found = _results(job, part, units[here.rank :: here.size])
        return [(ids.cpu(), {k: v.cpu() for k, v in unit.items()}) for ids, unit in found]

    for some in here.gather(own):
        yield from ((ids.to(job.x.device), {k: v.to(job.x.device) for k, v in unit.items()}) for ids, unit in some)


def _results(job: _Job, part: Part, units: Sequence[Tensor]) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
    """Each unit's ids and what came of it: what was kept first, then the others, as many at once as fit."""
    waiting = []
    for ids in units:
        if job.keep and (unit := job.keep.get(job.key(part, ids))):
            yield ids, {k: v.to(job.x.device) for k, v in unit.items()}
        else:
            waiting.append(ids)
    at_once = max(1, job.physical // job.logical)
    for i in range(0, len(waiting), at_once):
        wave = waiting[i : i + at_once]
        for ids, unit in zip(wave, _attack(job, part, wave), strict=True):
            if job.keep:
                job.keep.put(job.key(part, ids), {k: v.cpu() for k, v in unit.items()})
            yield ids, unit


def _attack(job: _Job, part: Part, units: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Runs one attack on some units at once; for each: `claimed` and `broken` `[n]`, the broken ones' `images`."""
    ids, sizes = torch.cat(list(units)), tuple(map(len, units))
    wave = Wave(job.forward, job.x[ids], job.y[ids], job.eps, sizes, job.seed, job.physical, job.loop)
    claimed, broken, x_adv = _found(part, wave)
    parts = zip(*(torch.split(v, list(sizes)) for v in (claimed, broken, x_adv)), strict=True)
    return [{"claimed": c, "broken": b, "images": v[b]} for c, b, v in parts]


def _found(part: Part, wave: Wave) -> tuple[Tensor, Tensor, Tensor]:
    """(claimed, broken, x'): what the attack says and what a fresh forward says of it.

    Found in TF32, denied in float32: such images lie on the boundary, and are attacked again in float32.
    """
    with quick_convolutions(wave.x.device) if part is not CLEAN else nullcontext(False) as quick:
        claimed, x_adv = part.run(wave, **part.params)
    broken = _confirmed(wave, claimed, x_adv)
    rows = (claimed & ~broken).nonzero()[:, 0]
    if quick and len(rows):
        few = wave.of(rows)
        claimed[rows], x_adv[rows] = part.run(few, **part.params)
        broken[rows] = _confirmed(few, claimed[rows], x_adv[rows])
    return claimed, broken, x_adv


def _confirmed(wave: Wave, claimed: Tensor, x_adv: Tensor) -> Tensor:
    """Which of the images that an attack took for broken a fresh forward finds so."""
    broken = claimed.clone()
    if bool(claimed.any()):
        broken[claimed] = ~_right(wave.forward, x_adv[claimed], wave.y[claimed], wave.physical)
    return broken


def _right(forward: Forward, x: Tensor, y: Tensor, physical: int) -> Tensor:
    return in_chunks(physical, lambda x, y: right(forward(x), y), x, y)
