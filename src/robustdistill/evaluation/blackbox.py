"""Attacks that read no gradient of the network: noise, random squares, and another network's gradient.

What they break and a gradient attack does not, the gradient attack should have found: see `diagnostics`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from robustdistill.evaluation.suite import plain_forward
from robustdistill.logits import Logits, Networks
from robustdistill.losses import margin
from robustdistill.modes import attacked
from robustdistill.types import Attack, Objective

Propose = Callable[[Tensor, int], Tensor]
"""(the best images so far, number of the query) -> the images to ask about next, in the ball."""


def search(z: Logits, propose: Propose, queries: int) -> Tensor:
    """Random search: of the images proposed, for each example the one with the largest margin.

    The margin is max_{j != y} z_j - z_y (positive: misclassified). Cost: `queries` + 1 forwards.
    """
    best, highest = z.x, margin(z.student(z.x), z.y)
    for query in range(queries):
        x = propose(best, query)
        reached = margin(z.student(x), z.y)
        better = reached > highest
        best = torch.where(better[:, None, None, None], x, best)
        highest = torch.where(better, reached, highest)
    return best


def noise(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None, queries: int) -> Tensor:
    """The best of `queries` draws of noise, in turn uniform in the ball and on its corners (+-eps at every pixel)."""

    def draw(best: Tensor, query: int) -> Tensor:
        u = 2 * _uniform(z.x.shape, z.x, generator) - 1
        return (z.x + eps * (u.sign() if query % 2 else u)).clamp(0, 1)

    return search(z, draw, queries)


def squares(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None, queries: int) -> Tensor:
    """Random squares of x +- eps, one colour each, kept where the margin grows; the first query is stripes.

    The square's side shrinks from 0.9 to 0.1 of the image's. After Square (Andriushchenko et al. 2020), with a plainer
    schedule and far fewer queries: it is here to find masked gradients, not to be quoted.
    """
    batch, channels, height, width = z.x.shape

    def draw(best: Tensor, query: int) -> Tensor:
        if query == 0:
            return _shifted(z.x, eps, _uniform((batch, channels, 1, width), z.x, generator))
        share = 0.9 - 0.8 * query / queries
        sides = max(1, round(share * height)), max(1, round(share * width))
        rows, columns = (
            _interval(batch, size, side, z.x, generator) for size, side in zip((height, width), sides, strict=True)
        )
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return torch.where(inside, _shifted(z.x, eps, _uniform((batch, channels, 1, 1), z.x, generator)), best)

    return search(z, draw, queries)


def transferred(source: nn.Module, attack: Attack) -> Attack:
    """`attack` on another network, `source` (on the same device), to be judged on the network at hand."""

    def run(z: Logits, objective: Objective, /, **params: Any) -> Tensor:
        with attacked(source):
            return attack.run(Logits(z.x, z.y, Networks(student=plain_forward(source))), objective, **params)

    return replace(attack, run=run)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)


def _shifted(x: Tensor, eps: float, u: Tensor) -> Tensor:
    return torch.where(u < 0.5, x - eps, x + eps).clamp(0, 1)


def _interval(batch: int, size: int, side: int, like: Tensor, generator: Generator | None) -> Tensor:
    # True on `side` neighbouring places of `size`, for each example elsewhere.
    start = (_uniform((batch, 1), like, generator) * (size - side + 1)).floor()
    place = torch.arange(size, device=like.device)
    return (place >= start) & (place < start + side)
