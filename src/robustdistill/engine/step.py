"""The min-max step: make x' by ascending the inner objective, then descend the outer one at x'."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from robustdistill.errors import UserError
from robustdistill.logits import Logits
from robustdistill.modes import attacked
from robustdistill.types import Closure, Modifier, Objective, descend
from robustdistill.world import current

BoundAttack = Callable[[Logits, Objective, Generator | None], Tensor]
Update = Callable[[nn.Module, Closure, torch.optim.Optimizer], Tensor]


@dataclass(frozen=True)
class MinMax:
    """One method, ready to run: what is ascended, what is descended, and how each is done.

    `attack` is None when nothing is ascended (x' = x). `units` holds the modules among the objectives and
    the modifiers: their state belongs to the run and is kept in checkpoints.
    """

    inner: Objective
    outer: Objective
    attack: BoundAttack | None
    update: Update
    units: nn.ModuleList
    attack_bn: str = "eval"

    def end_epoch(self) -> None:
        """Tells every unit that an epoch ended."""
        for unit in self.units:
            if callable(hook := getattr(unit, "end_epoch", None)):
                hook()


def min_max(
    inner: Objective,
    outer: Objective,
    attack: BoundAttack | None,
    modifiers: Sequence[Modifier] = (),
    attack_bn: str = "eval",
) -> MinMax:
    """Wraps the pair by each modifier in turn. UserError if two of them replace the outer update.

    An inner objective that is a method of the outer one's class becomes this outer objective's own.
    """
    inner = _seated(inner, outer)
    units = nn.ModuleList(u for u in (inner, outer, *modifiers) if isinstance(u, nn.Module))
    updates = [m for m in modifiers if m.replaces_update]
    if len(updates) > 1:
        names = " and ".join(type(m).__name__ for m in updates)
        raise UserError(f"{names} both replace the outer update; use one of them")
    for modifier in modifiers:
        inner, outer = modifier.wrap(inner, outer)
    return MinMax(inner, outer, attack, updates[0].update if updates else descend, units, attack_bn)


def _seated(inner: Objective, outer: Objective) -> Objective:
    """`inner`, bound to `outer` if it is a method of its class: two objectives, one state."""
    function: Any = getattr(inner, "func", inner)  # of a functools.partial
    if not (owner := belongs_to(function)):
        return inner
    method: Any = getattr(outer, function.__name__, None)
    if getattr(method, "__func__", None) is not function:
        raise UserError(f"the inner objective is a method of the outer objective {owner}: it goes with that one only")
    return functools.partial(method, **getattr(inner, "keywords", {}))


def belongs_to(objective: Any) -> str:
    """The name of the class that an inner objective `(self, z, *, ...)` is a method of; empty if it is none."""
    if not inspect.isfunction(objective) or next(iter(inspect.signature(objective).parameters), "") != "self":
        return ""
    return str(objective.__qualname__).rpartition(".")[0]


def step(
    game: MinMax, student: nn.Module, z: Logits, optimizer: torch.optim.Optimizer, generator: Generator | None
) -> Tensor:
    """One step on the batch of `z`. Returns the outer loss, a scalar on the device; never synchronises.

    An update may evaluate the loss several times; the units' own state moves as by its last evaluation alone. Where
    several processes share the batch, the loss is that of all of it, and buffers come out equal: as their mean.
    """
    x_adv = adversary(game, student, z, generator)
    state = [(buffer, buffer.clone()) for buffer in game.units.buffers()]

    def closure() -> Tensor:
        for buffer, before in state:
            buffer.copy_(before)
        return z.mean(game.outer(z.update(x_adv)))

    student.train()
    loss = game.update(student, closure, optimizer)
    here = current()
    if here.size > 1:
        here.average_([b for b in (*student.buffers(), *game.units.buffers()) if b.is_floating_point()])
    return loss


def adversary(game: MinMax, student: nn.Module, z: Logits, generator: Generator | None) -> Tensor:
    """x' = argmax of the inner objective in the ball around z.x; x itself when nothing is ascended."""
    if game.attack is None:
        return z.x
    with attacked(student, game.attack_bn):
        return game.attack(z, game.inner, generator)
