"""Batches from data that lives on the device: one gather crops and flips a whole batch, nothing waits for the host.

Order and augmentation of an epoch are drawn on the CPU from (seed, epoch) alone, augmentation by sample id: they
depend neither on the batch size nor on the device nor on the step that training starts from.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustdistill.data.keys import generator
from robustdistill.types import Augment, Split

Device = torch.device | str


@dataclass(frozen=True)
class Batch:
    """Images x `[B, C, H, W]` in [0, 1], labels y int64 `[B]`, and each image's row in its split, ids int64 `[B]`."""

    x: Tensor
    y: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Draws:
    """An epoch's random numbers, int64 `[N]`: the order of the samples and, by sample id, offsets dy, dx and flip."""

    order: Tensor
    dy: Tensor
    dx: Tensor
    flip: Tensor

    def picks(self) -> Tensor:
        """The same as a table `[4, N]` in the order of the samples: rows id, dy, dx, flip."""
        return torch.stack([self.order, self.dy[self.order], self.dx[self.order], self.flip[self.order]])


def draw(size: int, augment: Augment, seed: int, epoch: int) -> Draws:
    """The draws of epoch `epoch` over `size` samples, on the CPU: offsets in 0..2 pad, flip 0 or 1."""
    order = torch.randperm(size, generator=generator(seed, "order", epoch))
    crop, mirror = generator(seed, "crop", epoch), generator(seed, "flip", epoch)
    dy, dx = torch.randint(2 * augment.pad + 1, (2, size), generator=crop)
    flip = torch.randint(1 + augment.flip, (size,), generator=mirror)
    return Draws(order, dy, dx, flip)


def crop_flip(images: Tensor, dy: Tensor, dx: Tensor, flip: Tensor, pad: int) -> Tensor:
    """Zero-pads each image by `pad` pixels, cuts out its own window of the old size, and mirrors it where asked.

    out[b, c, i, j] = padded[b, c, dy_b + i, dx_b + j'], with j' = W - 1 - j where flip_b, else j. One gather.

    Args: images `[B, C, H, W]` of any dtype; dy, dx `[B]` integers in 0..2 pad (pad: no shift); flip `[B]`, 0 or 1
    or bool. Returns `[B, C, H, W]`, contiguous, of the same dtype.
    """
    batch, channels, height, width = images.shape
    b, c, i, j = (torch.arange(n, device=images.device) for n in (batch, channels, height, width))
    rows = dy[:, None] + i
    columns = dx[:, None] + torch.where(flip[:, None].bool(), width - 1 - j, j)
    padded = F.pad(images, (pad, pad, pad, pad))
    return padded[b[:, None, None, None], c[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def scaled(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 0..255 to `dtype` in [0, 1]: v / 255."""
    return images.to(dtype) / 255


class Loader:
    """The augmented training batches of `split`, which is held on `device` as uint8.

    Every sample comes once an epoch and the last batch may be smaller. `limit_batches` ends each epoch early.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        augment: Augment,
        seed: int,
        device: Device,
        dtype: torch.dtype = torch.float32,
        limit_batches: int | None = None,
    ) -> None:
        self.batch_size, self.augment, self.seed, self.device, self.dtype = batch_size, augment, seed, device, dtype
        self._images, self._labels = split.images.to(device), split.labels.to(device)
        steps = -(-len(split) // batch_size)
        self._steps = steps if limit_batches is None else min(steps, limit_batches)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self._steps

    def picks(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """What each batch of epoch `epoch` is made from, `[4, B]` on the device; from step `start` on."""
        table = draw(len(self._labels), self.augment, self.seed, epoch).picks().to(self.device)
        yield from torch.split(table, self.batch_size, dim=1)[start : len(self)]

    def batch(self, picks: Tensor) -> Batch:
        """The augmented batch that `picks` `[4, B]` asks for. Reads the device alone, so that it can be captured."""
        ids, dy, dx, flip = picks.unbind()
        images = crop_flip(self._images[ids], dy, dx, flip, self.augment.pad)
        return Batch(scaled(images, self.dtype), self._labels[ids], ids)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `epoch` from step `start` on: those that a run from step 0 gives there."""
        yield from map(self.batch, self.picks(epoch, start))
