"""Adversarial weight perturbation as the published code runs it; the core's `awp` is the plain rule.

Source: Wu, Xia & Wang, Adversarial Weight Perturbation Helps Robust Generalization, NeurIPS 2020.
"""

import re
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robustdistill import Modifier, hookimpl
from robustdistill.types import Closure, gradients

TINY = 1e-20


class AWP(Modifier):
    """Takes the outer step at weights that were first moved up the loss, and then moves them back.

        v = gamma ||w|| g / ||g||,  g = grad_w L(w);    w <- step(w + v) - v

    `step` is the whole optimiser's step, weight decay included, at w + v. gamma is 0 in the first `warmup` epochs.
    `layers`, a regular expression, picks weights by their names (empty: all with more than one dimension). `norm`:
    ||.|| is taken weight by weight (`layer`, the paper) or over all of them at once (`global`).
    """

    replaces_update = True

    def __init__(
        self,
        *,
        gamma: Annotated[float, Field(gt=0)] = 0.01,
        warmup: Annotated[int, Field(ge=0)] = 0,
        layers: str = "",
        norm: Literal["layer", "global"] = "layer",
    ) -> None:
        super().__init__()
        self.gamma, self.warmup, self.layers, self.norm = gamma, warmup, layers, norm
        self.epoch: Tensor
        self.register_buffer("epoch", torch.zeros(()))

    def update(self, student: nn.Module, closure: Closure, optimizer: torch.optim.Optimizer) -> Tensor:
        weights = [p for name, p in student.named_parameters() if self._moved(name, p)]
        if not weights:
            raise ValueError(f"awp-official: no weight of the student has a name that holds {self.layers!r}")
        moves = self._moves(weights, _ascent(student, closure, weights))
        optimizer.zero_grad()
        _add(weights, moves, 1.0)
        loss = closure()
        torch.autograd.backward(loss)
        optimizer.step()
        _add(weights, moves, -1.0)
        return loss.detach()

    def _moved(self, name: str, p: Tensor) -> bool:
        return p.requires_grad and p.dim() > 1 and "weight" in name and re.search(self.layers, name) is not None

    def _moves(self, weights: list[nn.Parameter], ascent: list[Tensor]) -> list[Tensor]:
        gamma = self.gamma * (self.epoch >= self.warmup).to(self.epoch)
        if self.norm == "global":
            ratio = gamma * _length(weights) / (_length(ascent) + TINY)
            return [ratio * g for g in ascent]
        return [gamma * w.detach().norm() / (g.norm() + TINY) * g for w, g in zip(weights, ascent, strict=True)]

    def end_epoch(self) -> None:
        """Counts the epochs of the warm-up."""
        self.epoch.add_(1)


def _ascent(student: nn.Module, closure: Closure, weights: list[nn.Parameter]) -> list[Tensor]:
    """grad_w L(w), as a proxy network would have it: the student's own running statistics do not move."""
    buffers = [b.clone() for b in student.buffers()]
    found = gradients(closure(), weights)
    for buffer, before in zip(student.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return found


def _length(tensors: list[nn.Parameter] | list[Tensor]) -> Tensor:
    length: Tensor = torch.stack([t.detach().norm() for t in tensors]).norm()
    return length


@torch.no_grad()
def _add(weights: list[nn.Parameter], moves: list[Tensor], sign: float) -> None:
    for w, v in zip(weights, moves, strict=True):
        w.add_(v, alpha=sign)


@hookimpl
def register_modifiers() -> dict[str, type[Modifier]]:
    return {"awp-official": AWP}
