"""Modifiers that compose with any method."""

from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from robustdistill.hookspecs import hookimpl
from robustdistill.types import Closure, Modifier, gradients


class AdversarialWeightPerturbation(Modifier):
    """AWP: descend the loss at weights that were first moved up the loss, layer by layer.

        v = gamma ||w|| g / ||g|| per weight tensor, g = grad_w L(w);   w <- w - lr grad L(w + v)

    The published code reaches g by one SGD step of a proxy network; its length cancels in the
    normalisation, so g is used directly. The first forward does not touch the running statistics.
    Source: Wu, Xia & Wang, NeurIPS 2020 (gamma 0.01 for SAT, 0.005 for TRADES).
    """

    replaces_update = True

    def __init__(self, *, gamma: Annotated[float, Field(gt=0)] = 0.01) -> None:
        super().__init__()
        self.gamma = gamma

    def update(self, student: nn.Module, closure: Closure, optimizer: torch.optim.Optimizer) -> Tensor:
        weights = [p for name, p in student.named_parameters() if p.requires_grad and p.dim() > 1 and "weight" in name]
        moves = [self.gamma * w.detach().norm() * g / (g.norm() + 1e-20) for w, g in _ascent(student, closure, weights)]
        _add(weights, moves, 1.0)
        optimizer.zero_grad()
        loss = closure()
        torch.autograd.backward(loss)
        _add(weights, moves, -1.0)
        optimizer.step()
        return loss.detach()


def _ascent(student: nn.Module, closure: Closure, weights: Sequence[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    buffers = [b.clone() for b in student.buffers()]
    grads = gradients(closure(), weights)
    for buffer, before in zip(student.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return zip(weights, grads, strict=True)


@torch.no_grad()
def _add(weights: Sequence[Tensor], moves: Sequence[Tensor], sign: float) -> None:
    for w, v in zip(weights, moves, strict=True):
        w.add_(v, alpha=sign)


@hookimpl
def register_modifiers() -> dict[str, type[Modifier]]:
    return {"awp": AdversarialWeightPerturbation}
