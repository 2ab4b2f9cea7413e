"""What an attack of the ensemble works on: some logical batches of standing images, and how they are run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from robustdistill.evaluation.autoattack.replay import Loop
from robustdistill.logits import Forward

Found = tuple[Tensor, Tensor]
"""(broken `[N]` bool, x' `[N, C, H, W]`): which images an attack takes for broken; x' = x for the others."""

LONGEST = 64


@dataclass(frozen=True)
class Wave:
    """The images of one or more logical batches, one batch after another.

    A logical batch is a batch of the official code: its random numbers start at `seed`, whatever runs beside it.
    `sizes` are the batches' lengths; x `[N, C, H, W]` in [0, 1], y `[N]` with N = sum(sizes). Two things decide speed
    and memory and no verdict: `physical`, the most images that one forward may get, and `loop`, which takes the steps.
    """

    forward: Forward
    x: Tensor
    y: Tensor
    eps: float
    sizes: tuple[int, ...]
    seed: int = 0
    physical: int = 250
    loop: Loop = field(default_factory=Loop)

    def batch(self) -> Tensor:
        """`[N]`: the index of each image's logical batch."""
        sizes = torch.tensor(self.sizes, device=self.x.device)
        return torch.repeat_interleave(torch.arange(len(self.sizes), device=self.x.device), sizes)

    def of(self, rows: Tensor) -> "Wave":
        """Some of the images, in order, as logical batches of their own; their steps are taken one by one."""
        sizes = tuple(n for n in self.batch()[rows].bincount(minlength=len(self.sizes)).tolist() if n)
        return replace(self, x=self.x[rows], y=self.y[rows], sizes=sizes, loop=Loop())

    def generators(self) -> list[Generator]:
        """Each logical batch's own random stream, on the CPU as in the official code."""
        return [Generator().manual_seed(self.seed) for _ in self.sizes]


def draw(generators: list[Generator], counts: list[int], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Uniform draws in [0, 1), `[sum(counts), *shape]`: counts[k] rows from the k-th stream.

    Drawn in float32; the values do not depend on how a stream is cut into draws (true of uniform ones only).
    """
    parts = [torch.rand(n, *shape, generator=g) for g, n in zip(generators, counts, strict=True)]
    return torch.cat(parts).to(like.device, like.dtype)


def ball(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The lowest and the highest image within `eps` of x and in [0, 1]."""
    return (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)


def right(logits: Tensor, y: Tensor) -> Tensor:
    """`[B]`: the prediction is the label. Logits that are not finite predict nothing, so they are wrong."""
    return (logits.argmax(dim=1) == y) & logits.isfinite().all(dim=1)


def pick(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The images of `a` where mask `[B]`, else those of `b`."""
    return torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)


def in_chunks(physical: int, run: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """`run(*rows)` on at most `physical` rows at a time, put together again."""
    return torch.cat([run(*part) for part in _chunks(physical, rows)])


def find_in_chunks(physical: int, run: Callable[..., Found], *rows: Tensor) -> Found:
    """The same for an attack that says what it found."""
    broken, x_adv = zip(*(run(*part) for part in _chunks(physical, rows)), strict=True)
    return torch.cat(broken), torch.cat(x_adv)


def _chunks(physical: int, rows: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(r, physical) for r in rows), strict=True)


def stretches(steps: int) -> Iterator[range]:
    """Steps 0 .. steps-1 in stretches that end after 1, 2, 4, ... 64 and then every 64 steps.

    Shapes stay within a stretch, and nothing is read back to the host; between two, broken images leave. Most
    break early, hence short stretches first.
    """
    first, last = 0, 1
    while first < steps:
        yield range(first, min(last, steps))
        first, last = last, last + min(last, LONGEST)
