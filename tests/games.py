"""Small networks and ready-made games for the tests of the engine."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustdistill import assemble
from robustdistill.engine.dryrun import dry_step
from robustdistill.engine.step import MinMax
from robustdistill.logits import Logits, Networks
from robustdistill.registry import default_registry
from robustdistill.resolve import resolve

CLASSES = 10


class Tiny(nn.Module):
    """Convolution, BatchNorm, linear: the least network with every kind of state."""

    def __init__(self, seed: int = 0, width: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(1, width, 3, padding=1, stride=2)
            self.bn = nn.BatchNorm2d(width)
            self.fc = nn.Linear(width * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.relu(self.bn(self.conv(x))).flatten(1))
        return out


def teacher(seed: int = 1) -> nn.Module:
    return Tiny(seed, 6).eval().requires_grad_(False)


def images(n: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 8, 8, generator=g, dtype=dtype), torch.randint(CLASSES, (n,), generator=g)


def game(layer: Mapping[str, Any]) -> MinMax:
    spec, registry = resolve([layer], default_registry()), default_registry()
    return assemble.build_game(spec, registry, len(registry.dataset(spec.data.name, spec.data.dir).classes))


def teachers_of(layer: Mapping[str, Any]) -> dict[str, nn.Module]:
    """A teacher for each role that the method of `layer` reads."""
    reads = dry_step(game(layer), Tiny(), shape=(2, 1, 8, 8), classes=CLASSES)
    return {role: teacher(1 if role == "robust" else 2) for role in reads.roles}


def batch(student: nn.Module, n: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> Logits:
    teachers = {"robust": teacher().to(dtype), "clean": teacher(2).to(dtype)}
    return Logits(*images(n, seed, dtype), Networks(student=student, teachers=teachers))


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
