"""The outer objective `halves`: half adversarial training, half distillation."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from robustdistill import Logits, Objective, hookimpl
from robustdistill.losses import ce, kl


def halves(z: Logits, *, weight: Annotated[float, Field(ge=0, le=1)] = 0.5) -> Tensor:
    """weight CE(S(x'), y) + (1 - weight) KL(S(x'), T(x))."""
    return z.term("ce", weight * ce(z.s_adv, z.y)) + z.term("kl", (1 - weight) * kl(z.s_adv, z.t))


@hookimpl
def register_outer_objectives() -> dict[str, Objective]:
    return {"halves": halves}
