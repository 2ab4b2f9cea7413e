"""The inner objective `margin`: the attack of Carlini and Wagner."""

from torch import Tensor

from robustdistill import Logits, Objective, hookimpl, losses


def margin(z: Logits, *, kappa: float = 50.0) -> Tensor:
    """-max(S_y(x') - max_{j != y} S_j(x') + kappa, 0)."""
    return losses.margin(z.s_adv, z.y, kappa)


@hookimpl
def register_inner_objectives() -> dict[str, Objective]:
    return {"margin": margin}
