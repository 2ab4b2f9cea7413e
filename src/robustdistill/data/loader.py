"""Batches from data that lives on the device: one gather crops and flips a whole batch, nothing waits for the host.

Order and augmentation of an epoch are drawn on the CPU from (seed, epoch) alone, augmentation by sample id: they
depend neither on the batch size nor on the device nor on the step that training starts from. Images that do not fit on
the device come through a window, batch by batch, and are the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustdistill.data.keys import generator
from robustdistill.data.window import Window
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


@dataclass(frozen=True)
class Extra:
    """More images to learn from, whose rows are counted on after the training set's: `share` of every batch is drawn
    from them, with replacement, anew in each epoch.
    """

    split: Split
    share: float

    def mixed(self, own: Tensor, batch_size: int, augment: Augment, seed: int, epoch: int) -> Tensor:
        """The table `[4, N]` of an epoch in which the rows `own` `[4, N]` make room for extra ones. An epoch stays as
        long as it is: of the own rows only the first ones come.
        """
        size = own.shape[1]
        place = torch.arange(size)
        full = torch.minimum(torch.tensor(batch_size), size - place // batch_size * batch_size)
        here = place % batch_size >= full - (self.share * full).round()
        n, draws = int(here.sum()), generator(seed, "extra", epoch)
        dy, dx = torch.randint(2 * augment.pad + 1, (2, n), generator=draws)
        flip = torch.randint(1 + augment.flip, (n,), generator=draws)
        ids = size + torch.randint(len(self.split), (n,), generator=draws)
        table = torch.empty_like(own)
        table[:, here], table[:, ~here] = torch.stack([ids, dy, dx, flip]), own[:, : size - n]
        return table


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


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]  # one alone is not copied


class Loader:
    """The augmented training batches of `parts`, one set of rows counted on from one to the next, which are held on
    `device` as uint8 if they are `resident` there.

    Every sample comes once an epoch and the last batch may be smaller; `extra` images take the place of some.
    `limit_batches` ends each epoch early. If it is not resident, a batch is made before the next one's picks are drawn.
    Where several processes share a batch of n, `part(n)` are the rows that this one makes of it.
    """

    def __init__(
        self,
        parts: Sequence[Split],
        *,
        batch_size: int,
        augment: Augment,
        seed: int,
        device: Device,
        dtype: torch.dtype = torch.float32,
        limit_batches: int | None = None,
        extra: Extra | None = None,
        resident: bool = True,
        part: Callable[[int], slice] = lambda n: slice(n),
    ) -> None:
        self.batch_size, self.augment, self.seed, self.device, self.dtype = batch_size, augment, seed, device, dtype
        self._extra, self._size, self._part = extra, sum(map(len, parts)), part
        every = [*parts, extra.split] if extra else parts
        images = [each.images for each in every]
        self._labels = torch.cat([each.labels for each in every]).to(device)
        self._window = None if resident else Window(images, batch_size, torch.device(device))
        self._images = _joined([i.to(device) for i in images]) if resident else torch.empty(0)
        steps = -(-self._size // batch_size)
        self._steps = steps if limit_batches is None else min(steps, limit_batches)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self._steps

    def picks(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """What each batch of epoch `epoch` is made from, `[4, B]` on the device; from step `start` on."""
        table = draw(self._size, self.augment, self.seed, epoch).picks()
        if self._extra:
            table = self._extra.mixed(table, self.batch_size, self.augment, self.seed, epoch)
        parts, there = (torch.split(t, self.batch_size, dim=1) for t in (table, table.to(self.device)))
        for i in range(start, len(self)):
            if self._window:
                self._window.fill(parts[i][0, self._part(parts[i].shape[1])])
            yield there[i]

    def batch(self, picks: Tensor) -> Batch:
        """The augmented batch that `picks` `[4, B]` asks for. Reads the device alone, so that it can be captured."""
        ids, dy, dx, flip = picks[:, self._part(picks.shape[1])].unbind()
        images = self._window.images[: len(ids)] if self._window else self._images[ids]
        return Batch(scaled(crop_flip(images, dy, dx, flip, self.augment.pad), self.dtype), self._labels[ids], ids)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `epoch` from step `start` on: those that a run from step 0 gives there."""
        yield from map(self.batch, self.picks(epoch, start))
