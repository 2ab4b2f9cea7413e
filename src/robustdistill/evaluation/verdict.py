"""What an attack left of a network: right or wrong for every example, and the numbers that follow from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustdistill.types import Stage

FEW = 20  # examples, of which a network that has learned may by chance be right on one class alone


@dataclass(frozen=True)
class Verdict:
    """What one attack left: `correct[i]` says that example i is still classified right."""

    attack: str
    eps: float
    correct: Tensor
    labels: Tensor
    params: Mapping[str, Any]
    seconds: float
    alarms: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    summary: str = ""

    @property
    def accuracy(self) -> float:
        """Fraction of examples still classified right, in [0, 1]."""
        return float(self.correct.double().mean())

    def per_class(self) -> list[float | None]:
        """Accuracy of each class that occurs (None for one that does not)."""
        classes = range(int(self.labels.max()) + 1)
        parts = [self.correct[self.labels == c].double() for c in classes]
        return [float(p.mean()) if len(p) else None for p in parts]

    def plain(self) -> dict[str, Any]:
        """The verdict as JSON values, every example's included."""
        low, high = wilson(self.accuracy, len(self.correct))
        classes = self.per_class()
        return {
            "attack": self.attack,
            "summary": self.summary,
            "eps": self.eps,
            "n": len(self.correct),
            "accuracy": self.accuracy,
            "interval95": [low, high],
            "per_class": classes,
            "worst_class": min((c for c in classes if c is not None), default=None),
            "params": dict(self.params),
            "seconds": self.seconds,
            "alarms": list(self.alarms),
            **(
                {"stages": [{"name": s.name, "accuracy": s.accuracy, "seconds": s.seconds} for s in self.stages]}
                if self.stages
                else {}
            ),
            "correct": "".join("1" if c else "0" for c in self.correct.tolist()),
        }


def one_class(correct: Tensor, labels: Tensor) -> list[str]:
    """A sentence if a network without an attack is right on every example of one class and on none of all others."""
    right = sorted(set(labels[correct].tolist()))
    of_it = labels == (right[0] if right else -1)
    if len(right) != 1 or not torch.equal(correct, of_it) or len(set(labels.tolist())) < 3 or len(labels) < FEW:
        return []
    return [
        f"it says class {right[0]} of every image: right on all {int(of_it.sum())} of that class and on none of the "
        f"{int((~of_it).sum())} others. It has learned nothing, and what stands under attack is the share of that class"
    ]


def wilson(p: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % Wilson score interval of a fraction `p` of `n` examples."""
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The examples that survive every attack."""
    correct = torch.stack([v.correct for v in verdicts]).all(dim=0)
    last, over = verdicts[-1], {"over": [v.attack for v in verdicts]}
    return Verdict("worst", last.eps, correct, last.labels, over, 0.0, summary="right under all of them")
