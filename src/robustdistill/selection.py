"""How a run's epochs are judged, and its result: accuracies under an attack, as fast as the steps are taken."""

import functools
from typing import Any

import torch
from torch import nn

from robustdistill import assemble
from robustdistill.engine import forwards
from robustdistill.engine.execution import Execution
from robustdistill.engine.forwards import Compiler
from robustdistill.engine.job import Judge
from robustdistill.evaluation import suite
from robustdistill.logits import Forward
from robustdistill.registry import Registry
from robustdistill.spec import RunSpec
from robustdistill.types import Split, Splits, Watch

ONE_STEP = "fgsm"
TEACHERS_IMAGES = 200  # a teacher is ten times its student, and judged once


def judge_of(
    spec: RunSpec,
    splits: Splits,
    registry: Registry,
    how: Execution,
    compiler: Compiler,
    watch: Watch | None = None,
    teacher: nn.Module | None = None,
) -> Judge:
    """How the run's epochs are judged: as fast as the steps are taken, in their number format."""
    split = splits.test if spec.select.split == "test" else splits.holdout
    part = trial(spec, Split(split.images[: spec.select.n], split.labels[: spec.select.n]))
    few = Split(part.images[:TEACHERS_IMAGES], part.labels[:TEACHERS_IMAGES])
    attack = spec.select.attack
    made: dict[nn.Module, Forward] = {}

    def found(network: nn.Module, *names: str) -> dict[str, float]:
        if how.plain:
            return accuracies(network, part, names, spec, registry, how.device, watch=watch)
        fast = made.setdefault(network, _differentiated(forwards.forward_of(compiler(network), how)))
        more: dict[str, Any] = {"batch_size": spec.batch_size} if how.compiled else {}
        return accuracies(network, part, names, spec, registry, how.device, forward=fast, watch=watch, **more)

    def accuracy(network: nn.Module) -> tuple[float, float]:
        both = found(network, "clean", attack)
        return both["clean"], both[attack]

    @functools.cache
    def teachers() -> tuple[float, int]:
        assert teacher is not None
        return accuracies(teacher, few, (attack,), spec, registry, how.device, watch=watch)[attack], len(few)

    return Judge(
        accuracy,
        spec.select.split,
        attack,
        spec.select.every,
        len(part),
        one_step=lambda network: found(network, ONE_STEP)[ONE_STEP],
        teacher=None if teacher is None else teachers,
    )


def _differentiated(network: Forward) -> Forward:
    # Whether its input asks for a gradient decides which compiled graph a network runs: this way one serves all.
    return lambda v: network(v if v.requires_grad else v.detach().requires_grad_())


def trial(spec: RunSpec, split: Split) -> Split:
    """`split`, or no more of it than an epoch sees where `limit_batches` makes the run a mere trial."""
    n = None if spec.limit_batches is None else spec.limit_batches * spec.batch_size
    return Split(split.images[:n], split.labels[:n])


def accuracies(
    network: nn.Module,
    split: Split,
    names: tuple[str, ...],
    spec: RunSpec,
    registry: Registry,
    device: torch.device,
    **how: Any,
) -> dict[str, float]:
    """Accuracy under each named attack on `split`, at the spec's radius; `how` as in `suite.judge`."""
    make = assemble.judging_generator(spec.seed, device, registry)
    attacks = {name: registry.get("attack", name) for name in names}
    verdicts = (
        suite.judge(network, split.images, split.labels, name, attack, eps=spec.eps, generator=make, **how)
        for name, attack in attacks.items()
    )
    return {v.attack: v.accuracy for v in verdicts}
