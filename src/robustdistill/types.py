"""What plugins are made of: objectives and attacks are functions, everything else is a record or a module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from robustdistill.logits import Logits

Weights = dict[str, Tensor]


@runtime_checkable
class Objective(Protocol):
    """A loss of one batch: `objective(z) -> [B]`, per example, never reduced.

    Written as a function `(z, *, alpha: float = 1.0, ...)` whose keyword-only arguments are its
    hyper-parameters, or, if it has state, as an `nn.Module` class whose `__init__` takes them and whose
    `forward(z)` is the loss. Inner and outer objectives are the same type; the inner one is ascended.
    """

    def __call__(self, z: Logits, /) -> Tensor: ...


AttackFn = Callable[..., Tensor]
"""Ascends `objective` in the ball around z.x: `(z, objective, /, *, eps, generator, ...) -> x'`.

Pure: it leaves the models, their gradients and the global random state as it found them, and draws
randomness from `generator` (a torch.Generator or None) alone. `x'` has the shape and dtype of `z.x` and lies
in the ball and in [0, 1]. Further keyword-only arguments are its parameters.
"""


@dataclass(frozen=True)
class Attack:
    """A named attack. Training replaces `objective` by the method's inner one; `params` are presets."""

    run: AttackFn
    objective: Objective | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""


class Modifier(nn.Module):
    """Wraps any method: other objectives around the same step, or another way to take the outer step.

    Both methods may be left as they are. State lives in buffers that are updated in place; an optional
    `end_epoch()` is called after each epoch.
    """

    replaces_update = False

    def wrap(self, inner: Objective, outer: Objective) -> tuple[Objective, Objective]:
        """The pair that takes the place of (inner, outer)."""
        return inner, outer

    def update(self, student: nn.Module, closure: "Closure", optimizer: torch.optim.Optimizer) -> Tensor:
        """One outer step; set `replaces_update` when overriding. Returns the loss that it descended."""
        return descend(student, closure, optimizer)


Closure = Callable[[], Tensor]
"""Builds a fresh `z.update(x')` each time it is called and returns the batch's mean outer loss."""


def descend(student: nn.Module, closure: Closure, optimizer: torch.optim.Optimizer) -> Tensor:
    """The plain outer step: one loss, one backward, one optimiser step. Returns the loss, a scalar."""
    optimizer.zero_grad()
    loss = closure()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.detach()


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


@dataclass(frozen=True)
class Model:
    """An architecture: `build(num_classes, in_channels, **params)`; input in [0, 1], output logits.

    `recognise(weights)` tells from a checkpoint's keys whether it fits and with which parameters
    (None: not this architecture). A name may hold integer fields: "wrn-{depth}-{width}".
    """

    build: Callable[..., nn.Module]
    recognise: Callable[[Weights], Mapping[str, Any] | None] | None = None
    summary: str = ""


@dataclass(frozen=True)
class Teacher:
    """A trained network: an architecture by name and its weights, with what is known of them.

    `path` is None for weights that must be brought as a file (`--teacher NAME@FILE`). Accuracies in [0, 1];
    `robust` by attack, at the radius `eps`.
    """

    model: str
    path: Path | None
    dataset: str
    params: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""
    clean: float | None = None
    robust: Mapping[str, float] = field(default_factory=dict)
    eps: float | None = None
    licence: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Split:
    """Images as uint8 `[N, C, H, W]` and labels as int64 `[N]`, on the CPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Splits:
    """A data set, cut once and for all: `train` to learn from, `holdout` to select by, `test` to report."""

    train: Split
    holdout: Split
    test: Split


@dataclass(frozen=True)
class Augment:
    """Random crop after zero-padding by `pad` pixels (a shift by at most `pad`), and horizontal flip."""

    pad: int = 0
    flip: bool = False


@dataclass(frozen=True)
class Dataset:
    """A data set and what it owns of a run: radius, augmentation, default student and teacher."""

    load: Callable[[Path | None], Splits]
    classes: tuple[str, ...]
    channels: int
    size: int
    eps: float | str
    augment: Augment
    student: str
    teacher: str
    needs_dir: bool = False
    summary: str = ""
    licence: str = ""

    def layer(self) -> dict[str, Any]:
        """What the data set decides, as a layer of a run spec."""
        return {
            "data": {"augment": {"pad": self.augment.pad, "flip": self.augment.flip}},
            "eps": self.eps,
            "student": {"name": self.student},
            "teachers": {"robust": {"name": self.teacher}},
        }
