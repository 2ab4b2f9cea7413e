"""What a method is: data, not code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a method's source trains: data, not code. Epochs and milestones count from 0.

    `step` is absolute (a number or "2/255") or relative to the radius ("eps/4"). `attack_bn` is the
    student's BatchNorm while it is attacked: eval; train (running statistics move with every attack
    step); train_frozen_stats (batch statistics, running ones restored).
    """

    start: str = "gaussian"
    start_size: float = 0.001
    steps: int = 10
    step: float | str = "eps/4"
    attack_bn: str = "eval"
    epochs: int = 300
    schedule: str = "multistep"
    milestones: tuple[int, ...] = ()
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 2e-4
    nesterov: bool = False

    def layer(self) -> dict[str, Any]:
        """The same as a layer of a run spec."""
        schedule = {"name": self.schedule}
        return {
            "attack": {"name": "pgd", "steps": self.steps, "step": self.step, **self._start()},
            "attack_bn": self.attack_bn,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optim": {k: getattr(self, k) for k in ("lr", "momentum", "weight_decay", "nesterov")},
            "schedule": schedule | ({"milestones": self.milestones} if self.milestones else {}),
        }

    def _start(self) -> dict[str, Any]:
        return {"start": self.start} | ({"start_size": self.start_size} if self.start == "gaussian" else {})


@dataclass(frozen=True)
class Variant:
    """A reading of a method: what it changes in the run spec and, in sentences, how it differs."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """A name for a pair (inner, outer) with defaults.

    `changes` of a variant is a layer of a run spec, merged over the method's own. The variant `paper`
    (Table 1's formula and its source's start and schedule) is the method itself.
    """

    inner: str
    outer: str
    summary: str
    cite: str = ""
    inner_params: Mapping[str, Any] = field(default_factory=dict)
    outer_params: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def layer(self) -> dict[str, Any]:
        """The method as a layer of a run spec."""
        return {
            "inner": {"name": self.inner, **self.inner_params},
            "outer": {"name": self.outer, **self.outer_params},
            **self.recipe.layer(),
        }
