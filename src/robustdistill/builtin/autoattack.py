"""AutoAttack (Croce & Hein 2020) through its PyPI packaging, with the reference's known traps guarded."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from robustdistill.errors import UserError
from robustdistill.hookspecs import hookimpl
from robustdistill.logits import Logits
from robustdistill.types import Attack, Objective


def autoattack(
    z: Logits,
    objective: Objective | None = None,
    /,
    *,
    eps: float,
    generator: Generator | None = None,
    seed: int = 0,
    batch_size: Annotated[int, Field(ge=1)] = 250,
) -> Tensor:
    """The standard version: APGD-CE, APGD-T, FAB-T, Square, each on the images still standing.

    Its own objectives and its own random numbers, from `seed`. Python warnings carry what the reference
    flags. Fewer than four classes are refused (its targeted DLR loss needs four), up to nine targets are
    attacked. Guarded: global random state, float32 contiguous input, tracers, sticky counters.
    Returns x' `[B, C, H, W]`: the image itself where no attack succeeded.
    """
    from pyautoattack import AutoAttack

    with torch.no_grad():
        classes = z.student(z.x[:1]).shape[-1]
    if classes < 4:
        raise UserError(f"AutoAttack's targeted DLR loss needs at least 4 classes; this model has {classes}")
    x = z.x.float().contiguous()
    with _guarded(x.device):
        attack = AutoAttack(_Student(z), norm="Linf", eps=eps, version="standard", device=x.device, seed=seed)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
        x_adv, _ = attack.run_standard_evaluation(x, z.y, batch_size=batch_size)
    low, high = (z.x - eps).clamp(0, 1), (z.x + eps).clamp(0, 1)
    return torch.clamp(x_adv.detach().to(z.x.dtype), low, high)


class _Student(nn.Module):
    """The student of a batch as the module that the reference expects."""

    def __init__(self, z: Logits) -> None:
        super().__init__()
        self._z = z

    def forward(self, v: Tensor) -> Tensor:
        return self._z.student(v.contiguous()).float()


@contextmanager
def _guarded(device: torch.device) -> Iterator[None]:
    """The reference seeds the global generators, ends every tracer and never resets its call counters."""
    from pyautoattack import checks

    tracer, logger, relay = sys.gettrace(), logging.getLogger("auto-attack"), _Relay()
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    logger.addHandler(relay)
    propagate, logger.propagate = logger.propagate, False
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(relay)
        sys.settrace(tracer)


class _Relay(logging.Handler):
    """Turns the reference's logged flags into warnings, which the suite collects."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> Any:
        warnings.warn(f"AutoAttack: {record.getMessage()}", UserWarning, stacklevel=2)


@hookimpl
def register_attacks() -> dict[str, Attack]:
    return {"aa": Attack(autoattack, None, {}, "AutoAttack, standard: APGD-CE, APGD-T, FAB-T, Square")}
