"""The attack `one-step`: along the sign of the gradient, a part of the radius."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from robustdistill import Attack, Logits, Objective, hookimpl
from robustdistill.losses import ce

Part = Annotated[float, Field(gt=0, le=1)]


def one_step(
    z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None, part: Part = 1.0
) -> Tensor:
    """x + part eps sign(gradient of the objective at x)."""
    x = z.x.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(objective(z.at(x)).sum(), x)
    return (z.x + part * eps * gradient.sign()).clamp(0, 1)


def ce_adv(z: Logits) -> Tensor:
    """CE(S(x'), y): what `eval` ascends; training puts the method's inner objective in its place."""
    return ce(z.s_adv, z.y)


@hookimpl
def register_attacks() -> dict[str, Attack]:
    return {"one-step": Attack(one_step, ce_adv, {"part": 0.5}, "one step of half the radius along the sign")}
