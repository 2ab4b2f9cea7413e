"""The small problem that checks pose: networks of some hundred parameters, a batch of images, a step of the engine."""

import inspect
import random
import typing
import zlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Generator, Tensor, nn

from robustdistill.logits import Clock, Forward, Logits, Networks, Reductions
from robustdistill.losses import ce
from robustdistill.testing.checks import hold
from robustdistill.types import Objective

CLASSES, CHANNELS, SIZE, EPS = 10, 1, 8, 0.1
SHAPE = (2, CHANNELS, SIZE, SIZE)


class Small(nn.Module):
    """Convolution, BatchNorm, SiLU, linear: smooth, with every kind of state. `gain` multiplies its logits."""

    def __init__(self, seed: int = 0, gain: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(CHANNELS, 3, 3, stride=2, padding=1)
            self.bn = nn.BatchNorm2d(3)
            self.fc = nn.Linear(48, CLASSES)
            self.bn.running_mean.normal_()  # type: ignore[union-attr]
            nn.init.normal_(self.fc.weight)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Images `[B, 1, 8, 8]` -> logits `[B, 10]`."""
        out: Tensor = self.gain * self.fc(nn.functional.silu(self.bn(self.conv(x))).flatten(1))
        return out


class Teachers(dict[str, Forward]):
    """A frozen network of its own for every role that is asked for; `cast` is put behind each."""

    def __init__(
        self, dtype: torch.dtype = torch.float64, gain: float = 1.0, cast: Callable[[Tensor], Tensor] = lambda v: v
    ):
        super().__init__()
        self._dtype, self._gain, self._cast = dtype, gain, cast

    def __missing__(self, role: str) -> Forward:
        network = Small(zlib.crc32(role.encode()), self._gain).to(self._dtype).eval().requires_grad_(False)
        self[role] = lambda v: self._cast(network(v))
        return self[role]


class Watched(Logits):
    """Logits that note which of the means to couple examples (`mean`, `min`, `once`) were used."""

    used: set[str]

    def once(self, key: Hashable, fn: Callable[[], Tensor]) -> Tensor:
        """As `Logits.once`."""
        self.used.add("once")
        return super().once(key, fn)


def images(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """x `[n, 1, 8, 8]`, y `[n]`, and an x' in the ball of radius `EPS`."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, CHANNELS, SIZE, SIZE, generator=g, dtype=dtype)
    noise = (2 * torch.rand(x.shape, generator=g, dtype=dtype) - 1) * EPS
    return x, torch.randint(CLASSES, (n,), generator=g), (x + noise).clamp(0, 1)


def pose(
    student: Forward,
    batch: tuple[Tensor, Tensor, Tensor],
    teachers: Teachers | None = None,
    *,
    learning: bool = True,
    clock: Clock | None = None,
) -> Watched:
    """A batch at its x', in the update (`learning`) or in the attack."""
    x, y, x_adv = batch
    used: set[str] = set()

    def noting(name: str, reduce: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def reduction(v: Tensor) -> Tensor:
            used.add(name)
            return reduce(v)

        return reduction

    reductions = Reductions(noting("mean", torch.mean), noting("min", torch.min))
    networks = Networks(student, Teachers(x.dtype) if teachers is None else teachers)
    z = Watched(x, y, networks, clock=clock or Clock.at(1, 2, x.device), reductions=reductions)
    z.used = used
    return z.update(x_adv) if learning else z.at(x_adv)


def sized(unit: Any) -> dict[str, Any]:
    """What the engine gives a class of objectives or modifiers: `num_classes`, if it takes that."""
    return {"num_classes": CLASSES} if "num_classes" in inspect.signature(unit).parameters else {}


def cross_entropy(z: Logits) -> Tensor:
    """CE(S(x'), y): what a check pairs an objective with, or lets an attack ascend."""
    return ce(z.s_adv, z.y)


def two_steps(z: Logits, objective: Objective, generator: Generator | None) -> Tensor:
    """The attack of a checked step: twice along the sign of the gradient."""
    x_adv = z.x
    for _ in range(2):
        x_adv = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(objective(z.at(x_adv)).sum(), x_adv)
        x_adv = (x_adv + EPS / 2 * grad.sign()).clamp(0, 1)
    return x_adv.detach()


@contextmanager
def same_global_rng(what: str) -> Iterator[None]:
    """AssertionError if the block moves a global generator of torch, numpy or Python."""
    before = _global_rng()
    yield
    moved = [name for name, state in _global_rng().items() if state != before[name]]
    hold(not moved, f"{what} moves {' and '.join(moved)} global random state; it must not be drawn from")


def _global_rng() -> dict[str, object]:
    keys, place = typing.cast(tuple[Any, ...], numpy.random.get_state())[1:3]
    return {
        "torch's": torch.get_rng_state().tolist(),
        "numpy's": (bytes(keys), place),
        "Python's": random.getstate(),
    }
