"""One step on device `meta`: what a method reads and costs, known before a run starts.

Nothing is computed there, so anything that asks the host for a value (`.item()`, `if tensor`, reading a
mask, `.cpu()`) raises: the step that passes never synchronises.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from robustdistill.engine.step import MinMax, adversary
from robustdistill.errors import PluginError
from robustdistill.logits import Clock, Forward, Logits, Networks
from robustdistill.types import Objective
from robustdistill.world import alone

META = torch.device("meta")


@dataclass(frozen=True)
class Reads:
    """Forwards of one step, counted: student and teacher, in the attack and in the update; the terms noted."""

    inner: Mapping[str, int]
    outer: Mapping[str, int]
    terms: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """The teachers that the step reads, by role."""
        return tuple(sorted({k for part in (self.inner, self.outer) for k in part if k != STUDENT}))

    def flat(self) -> dict[str, int]:
        """`{"inner student": 10, "inner robust": 10, ...}`."""
        return {f"{phase} {k}": n for phase in ("inner", "outer") for k, n in getattr(self, phase).items()}


STUDENT = "student"


def dry_step(
    game: MinMax,
    student: nn.Module,
    *,
    shape: tuple[int, ...],
    classes: int,
    teachers: Mapping[str, nn.Module] | None = None,
) -> Reads:
    """Runs one step of `game`, its update with plain SGD, on a meta copy of the student.

    `game` must be a fresh one, not that of a run: its units are moved to meta. Without `teachers` any teacher
    asked for is there; given ones are copied. PluginError for a loss that is not one per example; else raises
    whatever the method raises.
    """
    with alone():
        return _dry(game, student, shape, classes, teachers)


def _dry(
    game: MinMax, student: nn.Module, shape: tuple[int, ...], classes: int, teachers: Mapping[str, nn.Module] | None
) -> Reads:
    game.units.to(META)
    student = copy.deepcopy(student).to(META)
    counts: Counter[str] = Counter()
    real = {r: _counted(copy.deepcopy(t).to(META), r, counts) for r, t in (teachers or {}).items()}
    networks = Networks(
        student=_counted(student, STUDENT, counts), teachers=real if teachers else _AnyTeacher(counts, classes)
    )
    x, y = torch.empty(shape, device=META, dtype=_dtype(student)), torch.empty(shape[0], dtype=torch.long, device=META)
    z = Logits(x, y, networks, clock=Clock.at(0, 1, META))
    game = replace(game, inner=_per_example("inner", game.inner), outer=_per_example("outer", game.outer))
    x_adv = adversary(game, student, z, None)
    inner = dict(counts)
    counts.clear()
    terms: dict[str, Tensor] = {}

    def closure() -> Tensor:
        learning = z.update(x_adv)
        loss = game.outer(learning).mean()
        terms.update(learning.terms)
        return loss

    student.train()
    parameters = [p for p in student.parameters() if p.requires_grad]
    game.update(student, closure, torch.optim.SGD(parameters, lr=0.1))
    return Reads(inner, dict(counts), tuple(terms))


def _per_example(which: str, objective: Objective) -> Objective:
    def checked(z: Logits) -> Tensor:
        loss = objective(z)
        if loss.shape != z.y.shape:
            got, want = list(loss.shape), list(z.y.shape)
            raise PluginError(
                f"the {which} objective returned a loss of shape {got}; it must be one per example, {want}"
            )
        return loss

    return checked


def _dtype(student: nn.Module) -> torch.dtype:
    return next((p.dtype for p in student.parameters()), torch.float32)


def _counted(network: Forward, name: str, counts: Counter[str]) -> Forward:
    def forward(v: Tensor) -> Tensor:
        counts[name] += 1
        return network(v)

    return forward


@dataclass(frozen=True)
class _AnyTeacher(Mapping[str, Forward]):
    """Teachers for every role, all linear: what they compute does not matter, that they are read does."""

    counts: Counter[str]
    classes: int
    made: dict[str, Forward] = field(default_factory=dict)

    def __getitem__(self, role: str) -> Forward:
        if role not in self.made:
            self.made[role] = _counted(self._linear, role, self.counts)
        return self.made[role]

    def _linear(self, v: Tensor) -> Tensor:
        return v.flatten(1).mean(1, keepdim=True).expand(-1, self.classes) * 1.0

    def __iter__(self) -> Iterator[str]:
        return iter(self.made)

    def __len__(self) -> int:
        return len(self.made)
