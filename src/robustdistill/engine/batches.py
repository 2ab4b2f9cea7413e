"""What the engine asks of a source of training batches."""

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor


class Batch(Protocol):
    """Images `[B, C, H, W]` in [0, 1], labels `[B]` and the images' rows in the training set `[B]`, on the device."""

    @property
    def x(self) -> Tensor: ...

    @property
    def y(self) -> Tensor: ...

    @property
    def ids(self) -> Tensor: ...


class Batches(Protocol):
    """An epoch's batches in order, the same for the same epoch number; `len` is the steps of an epoch.

    `picks(k, i)` yields what each batch of epoch k from step i on is made from, tensors `[..., B]` on the device;
    `batch(picks)` makes it there. At most `batch_size` images are in a batch.
    """

    @property
    def batch_size(self) -> int: ...

    def picks(self, epoch: int, start: int = 0) -> Iterable[Tensor]: ...

    def batch(self, picks: Tensor) -> Batch: ...

    def __len__(self) -> int: ...
