"""One row of a speed table: the steps of a run in one mode and format, phase by phase."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from robustdistill.bench import timing
from robustdistill.bench.standin import splits_for, teachers_for
from robustdistill.engine.execution import computes_bf16
from robustdistill.engine.step import adversary
from robustdistill.engine.steps import WARM_STEPS, Steps
from robustdistill.logits import DEFAULT_ROLE, Logits
from robustdistill.prepare import Run, prepare
from robustdistill.registry import Registry
from robustdistill.selection import judge_of
from robustdistill.spec import RunSpec, from_layer

Loop = Callable[..., Iterator[float]]
"""A baseline: `(method, student, teacher, images, labels, *, eps, steps, batch_size, device, pad, flip)` yields after
each step of an epoch. `benchmarks/published.py` has one.
"""


@dataclass(frozen=True)
class Row:
    """How fast steps are. Seconds, except where a name says otherwise; None for what was not measured.

    `first_step`: from a prepared run to the end of its first step; `ready`: to the first step at full speed.
    `selection`: judging one epoch. `epoch`: all steps and selection. `memory_gib`: the peak that torch held.
    """

    name: str
    step: float
    images_per_second: float
    epoch: float
    augment: float | None = None
    attack: float | None = None
    update: float | None = None
    selection: float | None = None
    first_step: float | None = None
    ready: float | None = None
    memory_gib: float | None = None
    notes: tuple[str, ...] = ()


def setting(spec: RunSpec, text: str) -> RunSpec:
    """`spec` in the mode and format of "MODE" or "MODE:PRECISION"."""
    mode, _, precision = text.partition(":")
    layer = spec.model_dump(by_alias=True) | {"mode": mode, "precision": precision or "auto"}
    return from_layer(layer)


def assembled(spec: RunSpec, registry: Registry) -> Run:
    """The run of `spec`, with random images and teachers in place of those that are not at hand."""
    dataset = registry.dataset(spec.data.name, spec.data.dir)
    given = teachers_for(spec, dataset, registry)
    return prepare(spec, registry, teacher=given or None, splits=splits_for(spec, dataset))


def measured(run: Run, budget: float) -> Row:
    """The row of a run that was just assembled; `budget`: seconds for each of its numbers, at least one call."""
    timing.forget(run.device)
    take = _taker(run.job.steps)
    first = timing.once(run.device, take)
    ready = first + sum(timing.once(run.device, take) for _ in range(WARM_STEPS + 1))
    step = timing.seconds(run.device, take, budget)
    memory = timing.peak_gib(run.device)
    selection = _selection(run)
    augment, attack = (timing.seconds(run.device, part, budget) for part in _parts(run))
    return Row(
        name=str(run.execution),
        step=step,
        images_per_second=run.spec.batch_size / step,
        epoch=step * len(run.job.steps.batches) + selection / run.spec.select.every,
        augment=augment,
        attack=max(0.0, attack - augment),
        update=max(0.0, step - attack),
        selection=selection,
        first_step=first,
        ready=ready,
        memory_gib=memory,
        notes=tuple(run.job.steps.notes),
    )


def baseline(loop: Loop, run: Run, budget: float) -> Row:
    """The row of a loop that is not ours, on the images and networks of `run`: fp32, nothing frozen, no selection."""
    spec, device = run.spec, run.device
    timing.forget(device)
    teacher: nn.Module | None = run.teachers.get(DEFAULT_ROLE)
    teacher = teacher.requires_grad_(True) if teacher is not None else None
    split = run.splits.train
    augment = {"pad": spec.data.augment.pad, "flip": spec.data.augment.flip}
    how: dict[str, Any] = {"batch_size": spec.batch_size, "device": str(device), "eps": spec.eps, **augment}
    how["steps"] = spec.attack.params.get("steps", 10)
    steps = loop(spec.method, run.state.student, teacher, split.images, split.labels, **how)
    first = timing.once(device, lambda: next(steps))
    timing.once(device, lambda: next(steps))
    step = timing.seconds(device, lambda: next(steps), budget)
    memory = timing.peak_gib(device)
    epoch = step * len(run.job.steps.batches)
    return Row("baseline", step, spec.batch_size / step, epoch, first_step=first, memory_gib=memory)


def _taker(steps: Steps) -> Callable[[], Tensor]:
    """Takes the next full batch's step, epoch after epoch."""

    def all_steps() -> Iterator[Tensor]:
        for epoch in count():
            steps.begin(epoch)
            for i, picks in enumerate(steps.batches.picks(epoch)):
                if picks.shape[-1] == steps.batches.batch_size:
                    yield steps.take(picks, epoch, i)

    taken = all_steps()
    return lambda: next(taken)


def _parts(run: Run) -> tuple[Callable[[], object], Callable[[], object]]:
    """(making a batch, making it and attacking it), in the run's mode."""
    steps = run.job.steps
    picks = next(iter(steps.batches.picks(0))).clone()

    def attack() -> Tensor:
        batch = steps.batches.batch(picks)
        z = Logits(batch.x, batch.y, steps.networks, clock=steps.clock)
        return adversary(steps.game, steps.student, z, steps.start)

    def augment() -> Tensor:
        return steps.batches.batch(picks).x

    if not steps.recorder:
        return augment, attack
    for part in (augment, attack):
        with steps.recorder.warm():
            part()
    return tuple(steps.recorder.record(part, [steps.start]).replay for part in (augment, attack))  # type: ignore[return-value]


def _selection(run: Run) -> float:
    """Seconds of judging an epoch, from two batches of it."""
    spec, part = run.spec, 2 * run.spec.batch_size
    split = run.splits.test if spec.select.split == "test" else run.splits.holdout
    whole = min(spec.select.n or len(split), len(split))
    few = spec.model_copy(update={"select": spec.select.model_copy(update={"n": min(part, whole)})})
    judge = judge_of(few, run.splits, run.registry, run.execution, run.job.steps.compiler)
    timing.once(run.device, lambda: judge.accuracy(run.state.student))
    took = timing.once(run.device, lambda: judge.accuracy(run.state.student))
    return took * whole / min(part, whole)


def with_rates(rows: list[Row], flops: float, limit: float) -> list[Mapping[str, Any]]:
    """The rows as plain values, with TFLOP/s, share of the `limit` (operations a second) and speed-up over the first
    one's epoch. `flops`: operations of a step.
    """
    return [
        {
            **vars(row),
            "tflops": flops / row.step / 1e12,
            "share": flops / row.step / limit,
            "speedup": rows[0].epoch / row.epoch,
        }
        for row in rows
    ]


def limit_of(device: torch.device, budget: float) -> tuple[str, float]:
    """(format, operations a second) of the format in which the device multiplies matrices fastest."""
    native = {name: dtype for name, dtype in _FORMATS.items() if name != "bf16" or computes_bf16(device)}
    rates = {name: timing.matmul_rate(device, dtype, budget) for name, dtype in native.items()}
    best = max(rates, key=lambda name: rates[name])
    return best, rates[best]


_FORMATS = {"bf16": torch.bfloat16, "fp32": torch.float32}
