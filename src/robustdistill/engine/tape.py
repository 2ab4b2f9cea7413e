"""A recording on any device: each tensor operation noted, and replayed one by one into the same memory.

It keeps what a CUDA graph keeps and freezes what a CUDA graph freezes, at the speed of Python: for tests, and to
check without a GPU that a method can be recorded.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustdistill.recording import Recording

Note = tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]
ASKS_THE_HOST = frozenset({"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"})


class Tapes:
    """Records tapes. RuntimeError for an operation that asks the host for a value."""

    def warm(self) -> AbstractContextManager[None]:
        """Nothing to prepare."""
        return nullcontext()

    def record(self, function: Callable[[], Tensor], generators: Sequence[Generator]) -> Recording:
        """The function runs while it is recorded."""
        notes: list[Note] = []
        with _Listener(notes):
            out = function()
        return Recording(out, lambda: _play(notes))


class _Listener(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, notes: list[Note]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.notes = notes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ASKS_THE_HOST:
            raise RuntimeError(f"{func._schema.name} asks the host for a value: this cannot be recorded")
        out = func(*args, **(kwargs or {}))
        self.notes.append((func, args, kwargs or {}, [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]))
        return out


@torch.no_grad()
def _play(notes: list[Note]) -> None:
    for func, args, kwargs, kept in notes:
        fresh = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)]
        for old, new in zip(kept, fresh, strict=True):
            if old.data_ptr() != new.data_ptr():
                old.copy_(new)
