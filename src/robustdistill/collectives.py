"""What torch.distributed does for a run: sums, exchanged words, and a sentence when a process does not answer."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from robustdistill.errors import ProcessesApart, RobustDistillError, UserError

TIMEOUT, SECONDS = "ROBUSTDISTILL_TIMEOUT", 300.0
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Sum(torch.autograd.Function):
    """sum over the processes; its gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        out = v.clone(memory_format=torch.contiguous_format)
        reduce_(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        out: Tensor = Sum.apply(grad)
        return out


def reduce_(v: Tensor, op: Any = None, group: Any = None) -> None:
    """`v` becomes the sum, or what `op` says, of every process' `v`, in place."""
    with heard():
        dist.all_reduce(v, op=op or dist.ReduceOp.SUM, group=group)


@contextmanager
def heard() -> Iterator[None]:
    """Whatever the backends raise when a process is gone becomes a sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ProcessesApart(
            "another process of the run is gone or does not answer; see what it said. What was saved is kept: start "
            f"all of them again with --resume. (How long to wait for an answer: {TIMEOUT}, in seconds)"
        ) from error


def exchanged(what: Any, size: int, group: Any) -> list[Any]:
    """Every process' `what`, by rank; CPU tensors and whatever can be pickled."""
    told: list[Any] = [None] * size
    with heard():
        dist.all_gather_object(told, what, group=group)
    return told


def checksum(t: Tensor) -> Tensor:
    """An integer on the device, another one as soon as a bit of `t` or the order of its numbers is another."""
    bits = t.detach().reshape(-1).view(BITS[t.element_size()]).long()
    return (bits * torch.arange(1, 1 + len(bits), device=t.device)).sum()


def portable(error: Exception) -> Exception:
    """`error` as another process can read it."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        plain = RobustDistillError(str(error) or type(error).__name__)
        plain.exit_code = getattr(error, "exit_code", plain.exit_code)
        return plain


def timeout() -> timedelta:
    """How long to wait for an answer. UserError if the environment names no number of seconds."""
    text = os.environ.get(TIMEOUT, str(SECONDS))
    try:
        return timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        raise UserError(f"{TIMEOUT}={text} is no number of seconds") from None
