"""The number format that float32 tensors are computed in, which may be a shorter one: TF32 on a GPU, bf16 on a CPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import torch
from torch import backends

T = TypeVar("T")

TF32 = "tf32"
_OUTSIDE: ContextVar[bool] = ContextVar("whether convolutions outside of true_float32 are in TF32", default=False)


@contextmanager
def true_float32() -> Iterator[None]:
    """Convolutions and matrix products of float32 in float32, by cuDNN's deterministic kernels; afterwards as before.

    torch has two ways to say so, an old one and a new one, and refuses to read the old one where they disagree. Both
    are set, so that they agree inside, and the old one is left alone where it cannot be read.
    """
    flags = backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic
    tf32, matmul = _readable(lambda: backends.cudnn.allow_tf32), _readable(torch.get_float32_matmul_precision)
    kept = [kind.fp32_precision for kind in _kinds()]
    outside = _OUTSIDE.set(bool(tf32) or kept[0] == TF32)
    try:
        _set_flags(True, False, True)
        _set(tf32 and False, matmul and "highest", ["ieee"] * len(kept))
        yield
    finally:
        _set(tf32, matmul, kept)
        _set_flags(*flags)
        _OUTSIDE.reset(outside)


@contextmanager
def quick_convolutions(device: torch.device) -> Iterator[bool]:
    """Within `true_float32`, on a GPU: what cuDNN computes as it is outside of it, which is TF32 by torch's default.

    For a search whose finds are judged again in float32. Yields whether it is TF32.
    """
    if device.type != "cuda" or not _OUTSIDE.get():
        yield False
        return
    tf32, kept = _readable(lambda: backends.cudnn.allow_tf32), [kind.fp32_precision for kind in _kinds()]
    try:
        _set(None if tf32 is None else True, None, [TF32, TF32, *kept[2:]])
        yield True
    finally:
        _set(tf32, None, kept)


def _kinds() -> tuple[Any, ...]:
    gpu, cpu = cast(Any, backends.cudnn), cast(Any, backends.mkldnn)
    return gpu.conv, gpu.rnn, backends.cuda.matmul, cpu.conv, cpu.rnn, cpu.matmul


def _readable(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except RuntimeError:
        return None


def _set_flags(enabled: bool, benchmark: bool, deterministic: bool) -> None:
    backends.cudnn.enabled, backends.cudnn.benchmark = enabled, benchmark
    backends.cudnn.deterministic = deterministic


def _set(tf32: bool | None, matmul: str | None, precisions: list[str]) -> None:
    if tf32 is not None:
        backends.cudnn.allow_tf32 = tf32
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    for kind, precision in zip(_kinds(), precisions, strict=True):
        kind.fp32_precision = precision
