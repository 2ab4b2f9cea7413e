"""Work that is done, kept: an evaluation that is interrupted goes on where it was."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Keep(Protocol):
    """Tensors by key, such as a folder of files. Whoever makes it sees to it that no other evaluation's are in it."""

    def get(self, key: str) -> Tensors | None:
        """What was put there, or None."""

    def put(self, key: str, tensors: Tensors) -> None:
        """Keeps `tensors` under `key`."""


def once(keep: Keep | None, key: str, fn: Callable[[], Tensors]) -> Tensors:
    """`fn()`, or what it returned before under `key`."""
    if keep is None:
        return fn()
    if (kept := keep.get(key)) is None:
        keep.put(key, kept := fn())
    return kept


def spelt(sentences: Sequence[str]) -> Tensor:
    """Sentences as bytes, uint8: what is kept are tensors."""
    return torch.tensor(list("\n".join(sentences).encode()), dtype=torch.uint8)


def read(spelt: Tensor) -> list[str]:
    """The sentences again."""
    return bytes(spelt.tolist()).decode().splitlines()
