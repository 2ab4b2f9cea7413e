"""As many images at a time as the device holds, and the same answers with fewer."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from robustdistill.logits import Forward

T = TypeVar("T")


def in_parts(network: Forward, size: int) -> Forward:
    """`network`, with at most `size` images in a forward.

    The parts of a batch keep no activations for the backward pass: each is run again there, so that memory is that of
    one part. Values are those of the whole batch but for the last bits (kernels differ with the batch size).
    """

    def forward(v: Tensor) -> Tensor:
        if len(v) <= size:
            return network(v)
        return torch.cat([checkpoint(network, part, use_reentrant=False) for part in torch.split(v, size)])

    return forward


def fitted(run: Callable[[int], T], size: int) -> tuple[T, int]:
    """(`run(size)`, size), with half as many images at a time as often as the device runs out of memory.

    torch.OutOfMemoryError when one image is too many.
    """
    while True:
        try:
            return run(size), size
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        size = -(-size // 2)  # outside the handler, which holds on to the tensors of what failed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
