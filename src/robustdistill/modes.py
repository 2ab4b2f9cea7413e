"""Networks put into a mode for the length of a block, and left as they were found."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def attacked(student: nn.Module, bn: str = "eval") -> Iterator[None]:
    """The student as an attack sees it: frozen, BatchNorm in the mode `bn`; restored afterwards.

    bn: eval; train, whose running statistics move with every attack step; train_frozen_stats, batch
    statistics whose running ones are put back.
    """
    training, frozen = student.training, [p for p in student.parameters() if p.requires_grad]
    buffers = [b.clone() for b in student.buffers()] if bn == "train_frozen_stats" else []
    student.train(bn != "eval")
    for p in frozen:  # a graph would otherwise compute every weight's gradient too
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)
        student.train(training)
        for buffer, before in zip(student.buffers(), buffers, strict=False):
            buffer.copy_(before)


@contextmanager
def untouched(*modules: nn.Module) -> Iterator[None]:
    """Puts back, in place, every buffer and mode that the block changes."""
    modes = [m.training for m in modules]
    buffers = [(b, b.clone()) for m in modules for b in m.buffers()]
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)
        for buffer, before in buffers:
            buffer.copy_(before)
