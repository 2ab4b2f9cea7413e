"""What an attack is, and what an ensemble of attacks tells of its work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from robustdistill.types.objectives import Objective

AttackFn = Callable[..., Tensor]
"""Ascends `objective` in the ball around z.x: `(z, objective, /, *, eps, generator, ...) -> x'`.

Pure: it leaves the models, their gradients and the global random state as it found them, and draws
randomness from `generator` (a torch.Generator or None) alone. `x'` has the shape and dtype of `z.x` and lies
in the ball and in [0, 1]. Further keyword-only arguments are its parameters.
"""


@dataclass(frozen=True)
class Progress:
    """Of an evaluation's attack: `done` of `units` batches are through; `standing` of their images are still right."""

    attack: str
    done: int
    units: int
    standing: int


Watch = Callable[[Progress], object]
"""Hears of each batch that is done."""


@dataclass(frozen=True)
class Stage:
    """One attack of an ensemble: `correct` `[N]`, on the CPU, says which images are still right after it."""

    name: str
    correct: Tensor
    seconds: float

    @property
    def accuracy(self) -> float:
        """Fraction of images still classified right, in [0, 1]."""
        return float(self.correct.double().mean())


@dataclass(frozen=True)
class Outcome:
    """What an ensemble leaves: x' `[N, C, H, W]` (x itself where nothing broke it), its stages, and what to know."""

    x_adv: Tensor
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    @property
    def correct(self) -> Tensor:
        """`[N]` bool: right after every stage."""
        return self.stages[-1].correct


Ensemble = Callable[..., Outcome]
"""Judges a whole set of images by several attacks, each on what the last one left:
`(forward, x, y, *, eps, at_once, keep, watch, ...) -> Outcome`. The further keywords are those of the attack."""


@dataclass(frozen=True)
class Attack:
    """A named attack. Training replaces `objective` by the method's inner one; `params` are presets.

    `ensemble` takes the place of `run` in evaluation, where it sees all images at once. `passes`, where they are many:
    the forwards and gradients that an image costs which stays right to the end.
    """

    run: AttackFn
    objective: Objective | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""
    ensemble: Ensemble | None = None
    passes: int | None = None
