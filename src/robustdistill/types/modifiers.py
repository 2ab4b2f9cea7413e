"""What a modifier is, and the plain outer step that it may replace."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robustdistill.types.objectives import Objective
from robustdistill.world import current


class Modifier(nn.Module):
    """Wraps any method: other objectives around the same step, or another way to take the outer step.

    Both methods may be left as they are. State lives in buffers that are updated in place; an optional
    `end_epoch()` is called after each epoch.
    """

    replaces_update = False

    def wrap(self, inner: Objective, outer: Objective) -> tuple[Objective, Objective]:
        """The pair that takes the place of (inner, outer)."""
        return inner, outer

    def update(self, student: nn.Module, closure: "Closure", optimizer: torch.optim.Optimizer) -> Tensor:
        """One outer step; set `replaces_update` when overriding. Returns the loss that it descended."""
        return descend(student, closure, optimizer)


Closure = Callable[[], Tensor]
"""Builds a fresh `z.update(x')` each time it is called and returns the batch's mean outer loss."""


def descend(student: nn.Module, closure: Closure, optimizer: torch.optim.Optimizer) -> Tensor:
    """The plain outer step: one loss, one backward, one optimiser step. Returns the loss, a scalar."""
    optimizer.zero_grad()
    loss = closure()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.detach()


def gradients(loss: Tensor, weights: Sequence[Tensor], *, retain_graph: bool = False) -> list[Tensor]:
    """The gradient of the batch's mean loss, what a closure returns, to each of `weights`; zeros where there is none.

    Under several processes it is that of the global batch, as torch.autograd.grad's is not. What is left in `.grad`
    needs no such care: it becomes the global gradient as the optimiser steps.
    """
    found = torch.autograd.grad(loss, list(weights), retain_graph=retain_graph, allow_unused=True)
    grads = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
    current().average_(grads)
    return grads
