"""AutoAttack (Croce & Hein 2020): our own engine, and its PyPI packaging behind guards as the reference."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from robustdistill.errors import UserError
from robustdistill.evaluation.autoattack import standard
from robustdistill.evaluation.autoattack.cost import estimate
from robustdistill.evaluation.keep import Keep
from robustdistill.hookspecs import hookimpl
from robustdistill.logits import Forward, Logits
from robustdistill.types import Attack, Objective, Outcome, Watch

Engine = Literal["own", "reference"]
Images = Annotated[int, Field(ge=1)]

SURVIVOR = estimate(1, robust=1.0)
"""What an image costs that stays right to the end, with ten classes."""


def autoattack(
    z: Logits,
    objective: Objective | None = None,
    /,
    *,
    eps: float,
    generator: Generator | None = None,
    seed: int = 0,
    batch_size: Images = 250,
    engine: Engine = "own",
) -> Tensor:
    """The standard version: APGD-CE, APGD-T, FAB-T, Square, each on the images still standing.

    Its own objectives and its own random numbers, from `seed`; `generator` is not read. `batch_size` images draw them
    together, as in the official code. Returns x' `[B, C, H, W]`: the image itself where no attack succeeded.
    """
    n = len(z.x)
    return ensemble(z.student, z.x, z.y, eps=eps, at_once=n, seed=seed, batch_size=batch_size, engine=engine).x_adv


def ensemble(
    forward: Forward,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    at_once: int,
    keep: Keep | None = None,
    watch: Watch | None = None,
    seed: int = 0,
    batch_size: int = 250,
    engine: Engine = "own",
) -> Outcome:
    """The same on a whole set, `at_once` images in a forward; with its stages and what makes its verdict doubtful.

    `reference` runs the package `pyautoattack`, which tells no stages and keeps nothing.
    """
    if engine == "reference":
        return Outcome(reference(forward, x, y, eps=eps, seed=seed, batch_size=batch_size), ())
    return standard.autoattack(
        *(forward, x, y), eps=eps, seed=seed, logical_batch=batch_size, physical_batch=at_once, keep=keep, watch=watch
    )


def reference(forward: Forward, x: Tensor, y: Tensor, *, eps: float, seed: int, batch_size: int) -> Tensor:
    """x' of the package `pyautoattack`, standard version, with its known traps guarded: global random state, float32
    contiguous input, tracers, sticky counters. Python warnings carry what it flags.

    Raises UserError for fewer than four classes, which its targeted DLR loss needs; up to nine targets are attacked.
    """
    from pyautoattack import AutoAttack

    with torch.no_grad():
        classes = forward(x[:1]).shape[-1]
    if classes < 4:
        raise UserError(
            f"the reference's targeted DLR loss needs at least 4 classes and this model has {classes}; our own engine "
            "does without: leave out --aa-engine reference"
        )
    with _guarded(x.device):
        attack = AutoAttack(_Network(forward), norm="Linf", eps=eps, version="standard", device=x.device, seed=seed)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
        x_adv, _ = attack.run_standard_evaluation(x.float().contiguous(), y, batch_size=batch_size)
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    return torch.clamp(x_adv.detach().to(x.dtype), low, high)


class _Network(nn.Module):
    """A forward as the module that the reference expects."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self._forward = forward

    def forward(self, v: Tensor) -> Tensor:
        return self._forward(v.contiguous()).float()


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
    summary = "AutoAttack, standard: APGD-CE, APGD-T, FAB-T, Square"
    return {"aa": Attack(autoattack, None, {}, summary, ensemble, SURVIVOR.forwards + SURVIVOR.backwards)}
