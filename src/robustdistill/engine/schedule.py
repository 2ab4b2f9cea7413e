"""The learning rate of an epoch."""

import math
from collections.abc import Sequence


def lr_at(
    epoch: int, *, name: str, lr: float, epochs: int, milestones: Sequence[int] = (), gamma: float = 0.1
) -> float:
    """The rate during `epoch` (from 0) of `epochs`.

    cosine: lr (1 + cos(pi epoch / epochs)) / 2, which would reach 0 after the last epoch; multistep:
    lr gamma^(number of milestones <= epoch), every drop real; constant: lr.
    """
    if name == "cosine":
        return lr * (1 + math.cos(math.pi * epoch / epochs)) / 2
    drops = sum(epoch >= m for m in milestones) if name == "multistep" else 0
    return lr * gamma**drops
