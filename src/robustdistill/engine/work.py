"""What networks and steps compute, in floating-point operations: counted on device `meta`, nothing is run."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from robustdistill.engine.dryrun import STUDENT, Reads, dry_step
from robustdistill.engine.execution import Work
from robustdistill.engine.step import MinMax
from robustdistill.modes import attacked


def forward_flops(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Operations of one forward of images `shape` `[B, C, H, W]`; a multiplication and an addition are two.

    0 for a network that does not run on device meta, such as one that asks the host: an estimate stops no run.
    """
    state = {k: v.to("meta") for k, v in (*network.named_parameters(), *network.named_buffers())}
    dtype = next((v.dtype for v in state.values() if v.is_floating_point()), torch.float32)
    x = torch.empty(shape, device="meta", dtype=dtype)
    with torch.no_grad(), attacked(network), _Counter() as counter:
        try:
            functional_call(network, state, (x,))
        except Exception:  # somebody else's network may raise anything there
            return 0.0
    return float(counter.flops)


def estimate(
    reads: Reads, student: nn.Module, teachers: Mapping[str, nn.Module], image: tuple[int, ...], batch: int, steps: int
) -> Work:
    """The work of a run from the forwards it makes (see `work_of`), each network's counted here."""
    networks = {STUDENT: student, **teachers}
    return work_of(reads, {k: forward_flops(network, (1, *image)) for k, network in networks.items()}, batch, steps)


def work_of(reads: Reads, flops: Mapping[str, float], batch: int, steps: int) -> Work:
    """The work of a run from what a forward of the student and of each role's teacher costs for an image: a gradient to
    the images costs as much as a forward, one to the weights as much again; all teachers' attack forwards are taken as
    differentiated.
    """
    attack = sum(2 * n * flops[k] for k, n in reads.inner.items())
    update = sum((3 if k == STUDENT else 1) * n * flops[k] for k, n in reads.outer.items())
    return Work(flops[STUDENT], batch * (attack + update), steps)


def step_flops(
    game: MinMax, student: nn.Module, teachers: Mapping[str, nn.Module], *, shape: tuple[int, ...], classes: int
) -> float:
    """Operations of one step on images `shape`, gradients included, counted as they run. `game` as in `dry_step`."""
    with _Counter() as counter:
        dry_step(game, student, shape=shape, classes=classes, teachers=teachers)
    return float(counter.flops)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what torch's formulas give. (Its own FlopCounterMode follows modules too and forbids autograd.grad.)"""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out
