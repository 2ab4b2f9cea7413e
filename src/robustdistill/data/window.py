"""Images that stay in main memory or on disk: those of a batch are brought to the device as the batch is drawn."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import accumulate

import torch
from torch import Tensor

BUFFERS = 4  # batches that may be on their way to the device while the host is ahead of it
RESIDENT = 0.25  # of the device's free memory: a set that takes more stays where it is


def fits(images: int, device: torch.device) -> bool:
    """Whether a set of so many bytes belongs on the device."""
    return device.type != "cuda" or images <= RESIDENT * torch.cuda.mem_get_info(device)[0]


def gather(sources: Sequence[Tensor], ids: Tensor, out: Tensor) -> Tensor:
    """The rows `ids` int64 `[n]` of `sources`, counted on from one to the next, into `out`; nothing else is read."""
    for images, start in zip(sources, accumulate(map(len, sources), initial=0), strict=False):
        here = (ids >= start) & (ids < start + len(images))
        out[here] = images[ids[here] - start]
    return out


class Window:
    """Room for one batch on the device, `images` uint8 `[B, C, H, W]`, always at the same place in memory.

    `fill(ids)` brings there the rows `ids` of the sources, which are counted on from one to the next. The host waits
    only when it is `BUFFERS` batches ahead of the device.
    """

    def __init__(self, sources: Sequence[Tensor], batch_size: int, device: torch.device) -> None:
        shape = (batch_size, *sources[0].shape[1:])
        self._sources = sources
        self._cuda = device.type == "cuda"
        self.images = torch.empty(shape, dtype=torch.uint8, device=device)
        n = BUFFERS if self._cuda else 1
        with torch.cuda.device(device) if self._cuda else nullcontext():  # pinning starts CUDA on the current one
            self._staged = [torch.empty(shape, dtype=torch.uint8, pin_memory=self._cuda) for _ in range(n)]
        self._sent = [torch.cuda.Event() for _ in range(n)] if self._cuda else []  # type: ignore[no-untyped-call]
        self._next = 0

    def fill(self, ids: Tensor) -> None:
        """`ids` int64 `[n]`, n <= B, on the CPU: they become `images[:n]`."""
        turn, n = self._next % len(self._staged), len(ids)
        if self._sent:
            self._sent[turn].synchronize()  # of a buffer that was never sent this returns at once
        staged = gather(self._sources, ids, self._staged[turn][:n])
        self.images[:n].copy_(staged, non_blocking=True)
        if self._sent:
            self._sent[turn].record(torch.cuda.current_stream(self.images.device))
        self._next += 1
