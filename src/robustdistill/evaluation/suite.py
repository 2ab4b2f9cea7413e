"""One network under one attack: a verdict for every example, each re-judged by a fresh forward."""

import functools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from robustdistill.arithmetic import true_float32
from robustdistill.errors import PluginError, UserError
from robustdistill.evaluation.checks import check_images, check_labels, check_logits
from robustdistill.evaluation.fitting import fitted, in_parts
from robustdistill.evaluation.keep import Keep, Tensors, key, once, read, spelt
from robustdistill.evaluation.verdict import Verdict, one_class
from robustdistill.logits import Forward, Logits, Networks
from robustdistill.modes import attacked
from robustdistill.types import Attack, Objective, Progress, Stage, Watch
from robustdistill.world import current

MakeGenerator = Callable[[str, int], torch.Generator]
"""(attack name, index of the batch's first example) -> the randomness of that batch."""

BATCH = 250
CLEAN = "clean"


def judge(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    name: str,
    attack: Attack,
    *,
    eps: float,
    generator: MakeGenerator,
    batch_size: int = BATCH,
    at_once: int = BATCH,
    forward: Forward | None = None,
    keep: Keep | None = None,
    watch: Watch | None = None,
) -> Verdict:
    """One attack on images `x` `[N, C, H, W]` (uint8, or float in [0, 1]) with labels `y` `[N]`.

    The network is in eval mode and frozen meanwhile and left as it was found. `eps` is the L-inf radius. The attack
    sees `batch_size` images at a time, which draw their noise together; the network at most `at_once` of them, fewer
    when memory runs out, which changes no verdict. `forward` stands in for the network where speed matters more than
    the last digits: selection, never a reported verdict. What `keep` holds is not computed again; `watch` hears of
    each batch. Several processes, which must all call it, share the batches and come to the verdict of one.
    Raises UserError for images, labels or logits that cannot be judged, PluginError for an attack that
    leaves the ball.
    """
    check_images(x)
    check_labels(y, len(x))
    began, job = time.perf_counter(), _Job(network, forward or plain_forward(network), x, y, name, attack, eps, keep)
    with attacked(network), nullcontext() if forward else true_float32():
        if attack.ensemble:
            right, alarms, stages = _at_once(job, at_once, watch)
        else:
            right, alarms, stages = _by_batches(job, generator, batch_size, at_once, watch)
    if name == CLEAN:
        alarms = (*alarms, *one_class(right, y.cpu()))
    return Verdict(
        name, eps, right, y.cpu(), attack.params, time.perf_counter() - began, alarms, stages, attack.summary
    )


@dataclass(frozen=True)
class _Job:
    """What stays the same from batch to batch."""

    network: nn.Module
    forward: Forward
    x: Tensor
    y: Tensor
    name: str
    attack: Attack
    eps: float
    keep: Keep | None


Judged = tuple[Tensor, tuple[str, ...], tuple[Stage, ...]]
"""Which images are still right, alarms, and an ensemble's stages."""


def _by_batches(job: _Job, generator: MakeGenerator, batch_size: int, at_once: int, watch: Watch | None) -> Judged:
    here, all_starts = current(), range(0, len(job.x), batch_size)
    starts = all_starts[here.rank :: here.size]

    def own() -> dict[int, Tensors]:
        size, parts = at_once, {}
        for start in starts:
            rows = slice(start, start + batch_size)
            parts[start], size = fitted(functools.partial(_kept, job, rows, generator), size)
            if watch:
                watch(Progress(job.name, len(parts), len(starts), sum(int(p["right"].sum()) for p in parts.values())))
        return parts

    found = {start: part for some in here.gather(own) for start, part in some.items()}
    parts = [found[start] for start in all_starts]
    alarms = tuple(dict.fromkeys(sentence for part in parts for sentence in read(part["alarms"])))
    return torch.cat([part["right"] for part in parts]), alarms, ()


def _kept(job: _Job, rows: slice, generator: MakeGenerator, at_once: int) -> Tensors:
    name = key(job.name, job.attack.params, rows.start, rows.stop)
    return once(job.keep, name, functools.partial(_part, job, rows, generator, at_once))


def _part(job: _Job, rows: slice, generator: MakeGenerator, at_once: int) -> Tensors:
    """One batch: its draws depend on where it starts, not on how much of it runs at once."""
    images, labels = _on_device(job.network, job.x[rows], job.y[rows])
    with _heard() as alarms:
        check_logits(in_parts(plain_forward(job.network), at_once), images, labels)
        z = Logits(images, labels, Networks(student=in_parts(job.forward, at_once)))
        ascended = job.attack.objective or _no_objective(job.name)
        draws = generator(job.name, rows.start)
        x_adv = _followed(lambda: job.attack.run(z, ascended, eps=job.eps, generator=draws, **job.attack.params))
        right = _right(job, z.student, images, x_adv, labels)
    return {"right": right, "alarms": spelt(alarms)}


def _at_once(job: _Job, at_once: int, watch: Watch | None) -> Judged:
    """An ensemble sees the whole set: what it draws depends on which images still stand."""
    assert job.attack.ensemble
    images, labels = _on_device(job.network, job.x, job.y)
    common = {"eps": job.eps, "keep": job.keep, "watch": watch}
    run = functools.partial(job.attack.ensemble, job.forward, images, labels, **common, **job.attack.params)

    def own() -> Judged:
        with _heard() as alarms:
            outcome, size = fitted(lambda size: run(at_once=size), at_once)
            with torch.no_grad():
                right = _right(job, in_parts(job.forward, size), images, outcome.x_adv, labels)
        return right, (*outcome.notes, *alarms), outcome.stages

    return current().gather(own)[0]  # an ensemble need not share its work, nor come to the same twice


def _followed(run: Callable[[], Tensor]) -> Tensor:
    try:
        return run()
    except RuntimeError as error:
        if "does not require grad" in str(error):
            raise UserError(
                "the logits do not depend on the image by way of gradients (a detach, no_grad or rounding inside the "
                "model): no attack by gradients can judge it"
            ) from error
        raise


def _right(job: _Job, forward: Forward, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    """Which images are classified right after the attack, by a fresh forward: bool `[B]`, on the CPU."""
    _check_ball(job.name, x, x_adv, job.eps)
    logits = forward(x_adv.detach())
    if not bool((finite := logits.isfinite().all(dim=1)).all()):
        warnings.warn("logits on some attacked images are not finite; these count as wrong", UserWarning, stacklevel=2)
    correct: Tensor = (logits.argmax(dim=1) == y) & finite
    return correct.cpu()


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Python's warnings of the block, as sentences, once it is over."""
    sentences: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield sentences
    sentences.extend(dict.fromkeys(" ".join(str(w.message).split()) for w in caught))


def plain_forward(network: nn.Module) -> Forward:
    """The network itself, whatever its number format: images are cast to it."""
    return lambda v: network(v.to(_home(network).dtype))


def _no_objective(name: str) -> Objective:
    def missing(z: Logits) -> Tensor:
        raise UserError(f"attack {name!r} has no objective of its own and cannot evaluate; it is for training only")

    return missing


def _check_ball(name: str, x: Tensor, x_adv: Tensor, eps: float) -> None:
    inside = (x_adv - x).abs().amax() <= eps + 1e-6 and x_adv.amin() >= 0 and x_adv.amax() <= 1
    if x_adv.shape != x.shape or not inside:
        raise PluginError(f"attack {name!r} left the ball of radius {eps:.4g} or the pixel range [0, 1]")


def _home(network: nn.Module) -> Tensor:
    """A tensor where the network is and in its number format, if it has one."""
    kept = chain(network.parameters(), (b for b in network.buffers() if b.is_floating_point()))
    return next(kept, torch.empty(0))


def _on_device(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    home = _home(network)
    dtype = torch.float64 if home.dtype == torch.float64 else torch.float32  # half precision would leave the ball
    moved = x.to(home.device, dtype)
    return moved / 255 if x.dtype == torch.uint8 else moved, y.to(home.device)
