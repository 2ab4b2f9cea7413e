"""Work that is done, kept: an evaluation that is interrupted goes on where it was."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


class Keep(Protocol):
    """Tensors by key, such as a folder of files. Whoever makes it sees to it that no other evaluation's are in it."""

    def get(self, key: str) -> Tensors | None:
        """What was put there, or None."""

    def put(self, key: str, tensors: Tensors) -> None:
        """Keeps `tensors` under `key`."""


def key(attack: str, params: Mapping[str, Any], *parts: int) -> str:
    """A name for a part of an attack's work: the attack, its parameters, and numbers that tell which part."""
    digest = hashlib.sha256(repr((sorted(params.items()), parts)).encode()).hexdigest()
    return f"{attack}-{digest[:32]}"


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


def fingerprint(network: nn.Module, x: Tensor, y: Tensor, *facts: str) -> str:
    """SHA-256 of a network's class and weights, of images, labels and further facts: 64 hexadecimal digits."""
    digest = hashlib.sha256(repr((type(network).__module__, type(network).__qualname__, facts)).encode())
    for name, tensor in [*sorted(network.state_dict().items()), ("x", x), ("y", y)]:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
