"""What the engine asks of a source of training batches."""

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor


class Batch(Protocol):
    """Images `[B, C, H, W]` in [0, 1] and labels `[B]`, on the device."""

    @property
    def x(self) -> Tensor: ...

    @property
    def y(self) -> Tensor: ...


class Batches(Protocol):
    """An epoch's batches in order, the same for the same epoch number; `len` is the steps of an epoch.

    `picks(k)` yields what each batch of epoch k is made from, tensors `[..., B]` on the device; `batch(picks)` makes
    it there. At most `batch_size` images are in a batch.
    """

    @property
    def batch_size(self) -> int: ...

    def picks(self, epoch: int) -> Iterable[Tensor]: ...

    def batch(self, picks: Tensor) -> Batch: ...

    def __len__(self) -> int: ...
