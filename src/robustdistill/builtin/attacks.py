"""Sign-gradient attacks in the L-infinity ball: one function, and the presets the ARD papers evaluate with."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from robustdistill.hookspecs import hookimpl
from robustdistill.logits import Logits
from robustdistill.losses import ce, margin
from robustdistill.quantities import absolute_step
from robustdistill.types import Attack, Objective

Start = Literal["none", "uniform", "gaussian"]
Steps = Annotated[int, Field(ge=0)]


def pgd(
    z: Logits,
    objective: Objective,
    /,
    *,
    eps: float,
    generator: Generator | None = None,
    step: float | str = "eps/4",
    steps: Steps = 10,
    start: Start = "uniform",
    start_size: Annotated[float, Field(ge=0)] = 0.001,
) -> Tensor:
    """Projected sign-gradient ascent of `objective` (Madry et al. 2018).

        x'_0 = clip(x + noise),   x'_{k+1} = clip(project(x'_k + step * sign(grad objective(x'_k))))

    `project` is onto the L-inf ball of radius `eps` around x, `clip` onto [0, 1]. `start`: uniform noise in
    [-eps, eps], gaussian noise of standard deviation `start_size`, or none. `step` is absolute (a number or
    "2/255") or relative to the radius ("eps/4"). Returns the last iterate, detached: `[B, C, H, W]`.
    """
    alpha = absolute_step(step, eps)
    low, high = (z.x - eps).clamp(0, 1), (z.x + eps).clamp(0, 1)
    x_adv = torch.clamp(z.x + _noise(z, start, start_size, eps, generator), low, high)
    for _ in range(steps):
        x_adv.requires_grad_()
        with torch.enable_grad():
            value = objective(z.at(x_adv)).sum()
        (grad,) = torch.autograd.grad(value, x_adv)
        x_adv = torch.clamp(x_adv.detach() + alpha * grad.sign(), low, high)
    return x_adv.detach()


def _noise(z: Logits, start: Start, size: float, eps: float, generator: Generator | None) -> Tensor:
    def draw(n: int, generator: Generator | None) -> Tensor:
        noise = z.x.new_empty(n, *z.x.shape[1:])
        if start == "uniform":
            return noise.uniform_(-eps, eps, generator=generator)
        return noise.normal_(0, size, generator=generator)

    return torch.zeros_like(z.x) if start == "none" else z.drawn(draw, generator)


def clean(z: Logits, objective: Objective, /, *, eps: float, generator: Generator | None = None) -> Tensor:
    """x itself: no attack."""
    return z.x


def cross_entropy(z: Logits) -> Tensor:
    """CE(S(x'), y), what FGSM and both PGD presets ascend."""
    return ce(z.s_adv, z.y)


def cw_margin(z: Logits) -> Tensor:
    """The margin max_{j != y} z_j - z_y (kappa = 50), what CW-inf ascends."""
    return margin(z.s_adv, z.y)


CLEAN = Attack(clean, None, {}, "no attack")
FGSM = Attack(pgd, cross_entropy, {"steps": 1, "step": "eps", "start": "none"}, "one step of size eps on CE, no start")
PGD_SAT = Attack(
    pgd,
    cross_entropy,
    {"steps": 20, "step": "eps/4", "start": "uniform"},
    "PGD_S: CE, 20 x eps/4 (2/255), uniform start",
)
# The ARD papers' PGD_T ascends CE, not a KL: 20 steps of 0.003 at eps 8/255, that is 0.095625 of the radius.
PGD_TRADES = Attack(
    pgd,
    cross_entropy,
    {"steps": 20, "step": "0.095625*eps", "start": "uniform"},
    "PGD_T: CE (not a KL), 20 x 0.003 at 8/255, uniform start",
)
CW = Attack(
    pgd, cw_margin, {"steps": 20, "step": "eps/4", "start": "uniform"}, "CW-inf: margin, kappa 50, 20 x eps/4, uniform"
)


@hookimpl
def register_attacks() -> dict[str, Attack]:
    return {"clean": CLEAN, "fgsm": FGSM, "pgd": PGD_SAT, "pgd-sat": PGD_SAT, "pgd-trades": PGD_TRADES, "cw": CW}
