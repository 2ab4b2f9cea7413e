"""What the parts of AutoAttack ascend: logits `[B, C]`, labels and targets `[B]` -> `[B]`."""

from collections.abc import Callable

import torch
from torch import Tensor

from robustdistill import losses
from robustdistill.errors import UserError
from robustdistill.logits import Forward
from robustdistill.losses import true_class

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, y, target) -> `[B]`, to be ascended."""

DLR_CLASSES = 4


def ce(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, in nats; the target plays no part. What APGD-CE ascends."""
    return losses.ce(logits, y)


def lead(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """z_t - z_y: what FAB-T brings to zero, and what APGD-T ascends where DLR is not defined."""
    return _at(logits, target) - _at(logits, y)


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted difference of logits ratio, with z_(1) >= z_(2) >= ... the sorted logits; needs four classes.

        (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12)

    Shifting or scaling the logits changes nothing. Source: Croce & Hein 2020, Eq. 7.
    """
    top = logits.topk(DLR_CLASSES, dim=1).values
    return lead(logits, y, target) / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)


def targeted_loss(classes: int) -> Loss:
    """DLR where it is defined, else its numerator: with L-inf's sign steps its scale only weighs progress."""
    return dlr_targeted if classes >= DLR_CLASSES else lead


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """z_y - max_{j != y} z_j, what Square descends: negative where the image is broken."""
    return _at(logits, y) - logits.masked_fill(true_class(logits, y), -torch.inf).amax(dim=1)


def runners_up(logits: Tensor, n: int) -> Tensor:
    """`[B, min(n, C - 1)]`: the classes after the first, the likeliest first."""
    return logits.sort(dim=1).indices.flip(1)[:, 1 : n + 1]


def gradient(forward: Forward, loss: Loss, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at x, the loss `[B]` and its gradient with respect to x; nothing else gets one.

    Raises UserError if the model cuts the way back to the images.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = forward(x)
        value = loss(logits, y, target)
        if not value.requires_grad:
            raise UserError("the model's logits have no gradient (detached?): gradient attacks cannot judge it")
        (grad,) = torch.autograd.grad(value.sum(), x)
    return logits.detach(), value.detach(), grad


def _at(logits: Tensor, index: Tensor) -> Tensor:
    return logits.gather(1, index[:, None])[:, 0]
