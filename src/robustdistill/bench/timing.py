"""Seconds, bytes and the device's own limit."""

import gc
import statistics
import time
from collections.abc import Callable

import torch

GROUPS = 3


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def once(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of one call of `work`, all of it done."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def seconds(device: torch.device, work: Callable[[], object], budget: float) -> float:
    """Seconds of a call of `work` in a row of such calls: the median of three groups that take `budget` together."""
    n = max(1, int(budget / GROUPS / max(once(device, work), 1e-6)))

    def group() -> None:
        for _ in range(n):
            work()

    return statistics.median(once(device, group) / n for _ in range(GROUPS))


def matmul_rate(device: torch.device, dtype: torch.dtype, budget: float) -> float:
    """Operations a second of a large product of random matrices: what the device reaches at best."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / seconds(device, lambda: a @ b, budget)


def forget(device: torch.device) -> None:
    """Frees what earlier measurements left on the device and begins to count its memory anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """GiB that torch has held at most since `forget`; None on a CPU, where torch does not count them."""
    return torch.cuda.max_memory_reserved(device) / 2**30 if device.type == "cuda" else None
