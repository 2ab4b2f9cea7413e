"""Networks put into a mode for the length of a block, and left as they were found."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import nn


@contextmanager
def attacked(student: nn.Module, bn: str = "eval") -> Iterator[None]:
    """The student as an attack sees it: frozen, BatchNorm in the mode `bn`; restored afterwards.

    bn: eval; train, whose running statistics move with every attack step; train_frozen_stats, batch
    statistics whose running ones are put back.
    """
    modes, frozen = _modes(student), [p for p in student.parameters() if p.requires_grad]
    buffers = [b.clone() for b in student.buffers()] if bn == "train_frozen_stats" else []
    with suppress(NotImplementedError):  # of an exported program, which has the one mode that it was exported in
        student.train(bn != "eval")
    for p in frozen:  # a graph would otherwise compute every weight's gradient too
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)
        _restore(modes)
        for buffer, before in zip(student.buffers(), buffers, strict=False):
            buffer.copy_(before)


@contextmanager
def untouched(*modules: nn.Module) -> Iterator[None]:
    """Puts back, in place, every buffer and mode that the block changes."""
    modes = _modes(*modules)
    buffers = [(b, b.clone()) for m in modules for b in m.buffers()]
    try:
        yield
    finally:
        _restore(modes)
        for buffer, before in buffers:
            buffer.copy_(before)


@contextmanager
def seeded(number: int, device: torch.device) -> Iterator[None]:
    """torch's global generators of the CPU and of `device` start at `number`; afterwards they go on as before.

    For what draws from them, such as a student's dropout: its draws then depend on `number` alone.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(number)
        for gpu in cuda:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(number)
        yield


def _modes(*modules: nn.Module) -> list[tuple[nn.Module, bool]]:
    # One flag for each submodule: some may deliberately be in another mode than the whole.
    return [(part, part.training) for module in modules for part in module.modules()]


def _restore(modes: list[tuple[nn.Module, bool]]) -> None:
    for part, mode in modes:
        part.training = mode
