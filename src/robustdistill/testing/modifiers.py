"""The contract of a modifier: it wraps any method, moves the weights, and leaves nothing else behind."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustdistill.engine.dryrun import dry_step
from robustdistill.engine.state import sgd
from robustdistill.engine.step import MinMax, min_max, step
from robustdistill.engine.tape import Tapes
from robustdistill.registry import Registry, default_registry
from robustdistill.testing.checks import Check, called, hold, stopped
from robustdistill.testing.problem import (
    CLASSES,
    SHAPE,
    Small,
    Teachers,
    images,
    pose,
    same_global_rng,
    sized,
    two_steps,
)
from robustdistill.testing.signatures import annotated, by_keyword
from robustdistill.testing.state import keeps_its_state, moves_in_place
from robustdistill.types import Modifier

METHODS = ("sat", "rslad", "mmard")  # what a modifier is tried around


@dataclass(frozen=True)
class ModifierCase:
    """A modifier's class to check, with its parameters."""

    unit: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    registry: Registry = field(default_factory=default_registry)

    @property
    def what(self) -> str:
        """Its name in sentences."""
        return self.name or called(self.unit)

    def make(self) -> Modifier:
        """A fresh one."""
        modifier: Modifier = self.unit(**sized(self.unit) | dict(self.params))
        return modifier

    def game(self, method: str = "mmard", modifier: Modifier | None = None) -> MinMax:
        """A method's pair of objectives, wrapped by the modifier."""
        record = self.registry.get("method", method)
        inner, outer = (self.registry.build(kind, getattr(record, kind), {}) for kind in ("inner", "outer"))
        return min_max(inner, outer, two_steps, [modifier or self.make()])


@dataclass
class Session:
    """A game with a student of its own, in float32: steps on given batches."""

    game: MinMax
    lr: float = 0.1

    def __post_init__(self) -> None:
        self.student = Small()
        rates: dict[str, Any] = {"lr": self.lr, "momentum": 0.0, "weight_decay": 0.0, "nesterov": False}
        self.optimizer = sgd([*self.student.parameters(), *self.game.units.parameters()], **rates)
        self.teachers = Teachers(torch.float32)

    def step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """One step; its loss."""
        z = pose(self.student, batch, self.teachers, learning=False)
        return step(self.game, self.student, z, self.optimizer, None)

    def weights(self) -> Tensor:
        """The student's weights in a row."""
        return torch.cat([p.detach().flatten().clone() for p in self.student.parameters()])


def around(case: ModifierCase) -> Iterator[tuple[str, Session]]:
    """A session for each method that it is tried around."""
    for method in METHODS:
        yield f"around {method}", Session(case.game(method))


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A batch in float32."""
    return images(4, seed, torch.float32)


def signature(case: ModifierCase) -> None:
    """Is a subclass of Modifier whose parameters are keyword-only and annotated."""
    good = isinstance(case.unit, type) and issubclass(case.unit, Modifier)
    hold(good, f"{case.what} is no subclass of robustdistill.Modifier; register the class, not an instance")
    by_keyword(case.what, case.unit, 0, "def __init__(self, *, ...)")
    annotated(case.what, case.unit)
    overrides = case.unit.update is not Modifier.update
    hold(
        overrides == case.unit.replaces_update,
        f"{case.what} {'overrides update' if overrides else 'sets replaces_update'} alone; an update of its own needs "
        "both: the method `update` and replaces_update = True",
    )


def docstring(case: ModifierCase) -> None:
    """Has a docstring: `list` and `explain` show it."""
    text = inspect.getdoc(case.unit)
    hold(text and text != inspect.getdoc(Modifier), f"{case.what} has no docstring; say there what it does")


def meta(case: ModifierCase) -> None:
    """A step around each of sat, rslad and mmard passes on device meta, with a loss per example."""
    for method in METHODS:
        try:
            dry_step(case.game(method), Small(), shape=SHAPE, classes=CLASSES)
        except Exception as error:
            raise stopped(
                f"{case.what} around {method}", error, "torch.where, not .item(), `if v` or v[mask]"
            ) from error


def update(case: ModifierCase) -> None:
    """A step returns its loss, a finite scalar, and moves the weights."""
    for where, session in around(case):
        before = session.weights()
        loss = session.step(batch())
        good = isinstance(loss, Tensor) and loss.shape == () and not loss.requires_grad
        hold(good, f"{case.what} {where} returns {loss!r}; update returns the loss it descended, loss.detach()")
        hold(loss.isfinite(), f"the loss of {case.what} {where} is {float(loss)}")
        moved = not torch.equal(before, session.weights())
        hold(moved, f"{case.what} {where} leaves the weights where they were; update ends with optimizer.step()")


def leaves(case: ModifierCase) -> None:
    """At a learning rate of 0 the weights are where they were; modes and requires_grad too."""
    for where, session in around(case):
        session.student.train()
        session.optimizer.param_groups[0]["lr"].fill_(0)
        before, modes = session.weights(), [m.training for m in session.student.modules()]
        session.step(batch())
        far = float((session.weights() - before).norm() / before.norm())
        hold(
            far < 1e-5,
            f"{case.what} {where} leaves the weights {far:.2g} of their length away at a learning rate of 0; take back "
            "what was added to them",
        )
        same = [m.training for m in session.student.modules()] == modes
        hold(
            same and all(p.requires_grad for p in session.student.parameters()),
            f"{case.what} {where} leaves the student in another mode, or frozen",
        )


def global_rng(case: ModifierCase) -> None:
    """Draws nothing from the global random state of torch, numpy or Python."""
    session = Session(case.game())
    with same_global_rng(case.what):
        session.step(batch())


def replays(case: ModifierCase) -> None:
    """A recorded step, replayed on another batch, moves the weights as a fresh one does."""
    recorded, plain, static = Session(case.game()), Session(case.game()), tuple(v.clone() for v in batch())
    for session in (recorded, plain):
        session.step(batch(2))
    recording = Tapes().record(lambda: recorded.step(static), [])  # type: ignore[arg-type]
    plain.step(batch())
    for held, new in zip(static, batch(1), strict=True):
        held.copy_(new)
    recording.replay()
    plain.step(batch(1))
    far = float((recorded.weights() - plain.weights()).abs().max())
    hold(
        far < 1e-4,
        f"a recorded step of {case.what} ends {far:.2g} from a fresh one: something in it is a Python value, which a "
        "recording freezes; state is a buffer changed in place",
    )


def in_place(case: ModifierCase) -> None:
    """State moves in place: buffers keep their memory, and nothing else changes in a step."""
    modifier = case.make()
    session = Session(case.game(modifier=modifier))
    moves_in_place(case.what, modifier, lambda i: session.step(batch(i)))


def keeps(case: ModifierCase) -> None:
    """State survives a checkpoint, a copy and the end of an epoch: the next loss is the same."""

    def loss(modifier: nn.Module) -> Tensor:
        session = Session(case.game(modifier=cast(Modifier, modifier)))
        return torch.stack([session.step(batch(i)) for i in range(3)])

    keeps_its_state(case.what, case.make(), case.make, loss)


MODIFIER_CHECKS: tuple[Check[ModifierCase], ...] = (
    signature,
    docstring,
    meta,
    global_rng,
    update,
    leaves,
    replays,
    in_place,
    keeps,
)
