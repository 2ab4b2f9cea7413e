"""The contract of what plugins provide, for their tests: `check_objective(my_objective, alpha=0.5)` and its like.

Each function raises AssertionError with a sentence for everything that does not hold: what, and what instead.
`robustdistill plugins check NAME` runs the same checks over a whole plugin. An objective takes a fraction of a
second, a method about one.
"""

from collections.abc import Callable, Collection
from typing import Any, Literal

from torch import nn

from robustdistill.plugins import Plugin
from robustdistill.registry import Registry, default_registry
from robustdistill.testing.attacks import ATTACK_CHECKS, AttackCase
from robustdistill.testing.case import Case
from robustdistill.testing.checks import insist
from robustdistill.testing.methods import METHOD_CHECKS, MethodCase
from robustdistill.testing.models import MODEL_CHECKS, ModelCase
from robustdistill.testing.modifiers import MODIFIER_CHECKS, ModifierCase
from robustdistill.testing.objectives import OBJECTIVE_CHECKS
from robustdistill.types import Attack, AttackFn, Method, Model, Modifier, Objective

__all__ = ["check_attack", "check_method", "check_model", "check_modifier", "check_objective"]


def check_objective(
    objective: Objective | type[nn.Module] | Callable[..., Any],
    role: Literal["outer", "inner"] = "outer",
    /,
    *,
    skip: Collection[str] = (),
    **params: Any,
) -> None:
    """Holds an objective, with `params`, to its contract: as the one that the student descends, or the `inner` one.

    Shape, format, finiteness, gradients by finite differences, what they reach, state, and no trace left behind. `skip`
    names checks that the objective breaks on purpose, such as a straight-through gradient: `skip=["gradient"]`.
    """
    insist(Case(objective, role, params), OBJECTIVE_CHECKS, skip)


def check_attack(attack: Attack | AttackFn, /, *, skip: Collection[str] = (), **params: Any) -> None:
    """Holds an attack, a record or its function, to its contract: ball, range, objective, generator, no trace."""
    insist(AttackCase(attack if isinstance(attack, Attack) else Attack(attack), params), ATTACK_CHECKS, skip)


def check_model(model: Model | Callable[..., nn.Module], /, *, skip: Collection[str] = (), **params: Any) -> None:
    """Holds an architecture, a record or its `build`, to its contract: logits, modes, gradients, weights."""
    if not isinstance(model, Model):
        model, skip = Model(model), {*skip, "summary"}
    insist(ModelCase(model, params), MODEL_CHECKS, skip)


def check_modifier(modifier: type[Modifier], /, *, skip: Collection[str] = (), **params: Any) -> None:
    """Holds a modifier's class to its contract, around sat, rslad and mmard: wraps, updates, leaves nothing behind."""
    insist(ModifierCase(modifier, params), MODIFIER_CHECKS, skip)


def check_method(method: Method | str, /, *, skip: Collection[str] = (), registry: Registry | None = None) -> None:
    """Holds a method, a record or a registered name, to its contract: names, recipe, variants, two steps on the digits.

    The objectives that it names must be registered: install the plugin first (`pip install -e .`).
    """
    known, name = registry or default_registry(), method
    if isinstance(method, Method):
        name = "the-method"
        known = Registry([*known.plugins, Plugin(name, "this test", "", {"register_methods": {name: method}})])
    insist(MethodCase(str(name), known), METHOD_CHECKS, skip)
