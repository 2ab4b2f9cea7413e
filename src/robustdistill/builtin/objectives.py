"""Table 1 of the MMARD paper on one page: what the attack ascends and what the student descends.

S(x), S(x'), T(x), T(x') are z.s, z.s_adv, z.t, z.t_adv. KL(S, T) in the papers' argument order is
KL(p_T || p_S): the teacher is the reference. Terms stand in the order in which their sources run the
student, since each forward updates BatchNorm.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from robustdistill.hookspecs import hookimpl
from robustdistill.logits import Logits
from robustdistill.losses import KLScale, Reduction, Space, angle, ce, huber, kl
from robustdistill.types import Objective

Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


# ---- inner objectives: ascended to make x' --------------------------------------------------------------
def no_attack(z: Logits) -> Tensor:
    """0: nothing is ascended. With the inner objective `none` no attack runs and x' = x."""
    return z.x.new_zeros(len(z.x))


def ce_adv(z: Logits) -> Tensor:
    """CE(S(x'), y): the inner objective of SAT, ARD, IAD and MTARD."""
    return ce(z.s_adv, z.y)


def kl_teacher(z: Logits) -> Tensor:
    """KL(S(x'), T(x)): the inner objective of RSLAD; T(x) is computed once."""
    return kl(z.s_adv, z.t)


def kl_teacher_adv(z: Logits, *, teacher_grad: Literal["full", "detach"] = "full") -> Tensor:
    """KL(S(x'), T(x')): the inner objective of MMARD (Eq. 3) and of AdaAD.

    `full`: the gradient reaches x' through both networks, so Eq. 3 is really ascended. `detach`: T(x') is
    a constant of each step; about 0.6 of the cost, and points that are close to RSLAD's.
    """
    if teacher_grad == "detach":
        return kl(z.s_adv, z.teacher(z.x_adv.detach()))
    return kl(z.s_adv, z.t_adv)


# ---- outer objectives: descended by the student ---------------------------------------------------------
def nature(z: Logits) -> Tensor:
    """CE(S(x), y): natural training."""
    return ce(z.s, z.y)


def sat(z: Logits) -> Tensor:
    """CE(S(x'), y): standard adversarial training (Madry et al. 2018)."""
    return ce(z.s_adv, z.y)


def rslad(z: Logits, *, alpha: Fraction = 5 / 6, kl_scale: KLScale = "rslad") -> Tensor:
    """alpha KL(S(x'), T(x)) + (1 - alpha) KL(S(x), T(x)): RSLAD (Zi et al. 2021). No labels."""
    return weighted(
        z,
        (alpha, "kl_adv", lambda: kl(z.s_adv, z.t, scale=kl_scale)),
        (1 - alpha, "kl_nat", lambda: kl(z.s, z.t, scale=kl_scale)),
    )


def mmard(
    z: Logits,
    *,
    alpha: Weight = 1.0,
    kl_scale: KLScale = "rslad",
    space: Space = "prob",
    reduction: Reduction = "mean",
    delta: Positive = 1.0,
) -> Tensor:
    """KL(S(x'), T(x')) + alpha TRD: MMARD (Eq. 4 and 7). With alpha = 0 it is AdaAD's outer objective.

    `space`, `reduction` and `delta` belong to TRD (see `trd`); `kl_scale` multiplies the KL alone.
    """
    return weighted(
        z,
        (1, "kl", lambda: kl(z.s_adv, z.t_adv, scale=kl_scale)),
        (alpha, "trd", lambda: trd(z, space=space, reduction=reduction, delta=delta)),
    )


def trd(z: Logits, *, space: Space = "prob", reduction: Reduction = "mean", delta: Positive = 1.0) -> Tensor:
    """Triangular relationship distillation, l_delta(psi_t, psi_s) with psi = `losses.angle` (Eq. 5 and 6).

    psi_t is a constant; the gradient flows into both S(x) and S(x'). In probability space psi lies in
    [1/2, 1], so any delta >= 1/2 gives (psi_t - psi_s)^2 / 2. reduction `sum` multiplies by the batch size,
    so that the engine's batch mean becomes the sum that Eq. 6 writes.
    """
    student = angle(z.s, z.s_adv, z.y, space)
    teacher = angle(z.t, z.t_adv, z.y, space).detach()
    return huber(student, teacher, delta) * (len(z.y) if reduction == "sum" else 1)


def weighted(z: Logits, *terms: tuple[float, str, Callable[[], Tensor]]) -> Tensor:
    """Sum of weight x term, in order; each is noted by its name, one with weight 0 is not evaluated."""
    values = [z.term(name, weight * term()) for weight, name, term in terms if weight]
    return sum(values[1:], start=values[0])


@hookimpl
def register_inner_objectives() -> dict[str, Objective]:
    return {"none": no_attack, "ce": ce_adv, "kl-teacher": kl_teacher, "kl-teacher-adv": kl_teacher_adv}


@hookimpl
def register_outer_objectives() -> dict[str, Objective]:
    return {"nature": nature, "sat": sat, "rslad": rslad, "mmard": mmard}
