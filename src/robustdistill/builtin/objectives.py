"""Table 1 of the MMARD paper on one page: what the attack ascends and what the student descends.

S(x), S(x'), T(x), T(x') are z.s, z.s_adv, z.t, z.t_adv. KL(S, T) in the papers' argument order is
KL(p_T || p_S): the teacher is the reference. Terms stand in the order in which their sources run the
student, since each forward updates BatchNorm.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robustdistill.builtin.mtard import MTARD
from robustdistill.hookspecs import hookimpl
from robustdistill.logits import Logits
from robustdistill.losses import KLScale, Reduction, Space, angle, ce, huber, kl, prob
from robustdistill.types import Objective

Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Forwards = Literal[1, 2]


# ---- inner objectives: ascended to make x' --------------------------------------------------------------
def no_attack(z: Logits) -> Tensor:
    """0: nothing is ascended. With the inner objective `none` no attack runs and x' = x."""
    return z.x.new_zeros(len(z.x))


def ce_adv(z: Logits) -> Tensor:
    """CE(S(x'), y): the inner objective of SAT, ARD, IAD and MTARD."""
    return ce(z.s_adv, z.y)


def kl_student(z: Logits) -> Tensor:
    """KL(S(x'), S(x)): the inner objective of TRADES; S(x) is a constant. Its gradient vanishes at x' = x."""
    return kl(z.s_adv, z.s.detach())


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


def trades(z: Logits, *, lam: Weight = 6.0, kl_scale: KLScale = "batchmean", natural_forwards: Forwards = 1) -> Tensor:
    """CE(S(x), y) + lam KL(S(x'), S(x)): TRADES (Zhang et al. 2019). Gradients flow into both S(x) and S(x')."""
    return weighted(
        z,
        (1, "ce", lambda: ce(z.s, z.y)),
        (lam, "kl", lambda: kl(z.s_adv, natural(z, natural_forwards), scale=kl_scale, batch=z.batch_size)),
    )


def ard(
    z: Logits,
    *,
    alpha: Fraction = 1.0,
    tau: Positive = 30.0,
    ce_tau: Positive | None = None,
    kl_scale: KLScale = "batchmean",
    zero_terms: bool = False,
) -> Tensor:
    """(1 - alpha) CE(S^tau(x), y) + alpha tau^2 KL(S^tau(x'), T^tau(x)): ARD (Goldblum et al. 2020).

    `ce_tau` is the temperature of the CE where it is another one. `zero_terms` runs what a term of weight 0 reads
    all the same, as the published code does: it moves BatchNorm.
    """
    return weighted(
        z,
        (alpha, "kl", lambda: tau**2 * kl(z.s_adv, z.t, tau, kl_scale, z.batch_size)),
        (1 - alpha, "ce", lambda: ce(z.s, z.y, ce_tau or tau)),
        zero_terms=zero_terms,
    )


def iad(
    z: Logits,
    *,
    beta: Weight = 0.1,
    tau: Positive = 1.0,
    begin: Fraction = 0.3,
    teacher_weight: Literal["w", "one"] = "w",
    kl_scale: KLScale = "batchmean",
    natural_forwards: Forwards = 1,
) -> Tensor:
    """w KL(S^tau(x'), T^tau(x)) + (1 - w) KL(S^tau(x'), S^tau(x)), w = T_y(x')^beta: IAD (Zhu et al. 2022).

    w is 1 until the fraction `begin` of the epochs is over. `teacher_weight = "one"` leaves the first term unweighted.
    """
    w = trust(z, beta, begin)
    first = w if teacher_weight == "w" else 1.0
    return weighted(
        z,
        (1, "teacher", lambda: first * kl(z.s_adv, z.t, tau, kl_scale, z.batch_size)),
        (1, "self", lambda: (1 - w) * kl(z.s_adv, natural(z, natural_forwards), tau, kl_scale, z.batch_size)),
    )


def iad_ii(
    z: Logits,
    *,
    alpha: Fraction = 0.5,
    alpha_clean: Fraction = 0.25,
    beta: Weight = 0.1,
    tau: Positive = 1.0,
    begin: Fraction = 0.2,
    kl_scale: KLScale = "batchmean",
) -> Tensor:
    """a [w KL(S(x'), T(x')) + (1-w) KL(S(x'), S(x))] + b KL(S(x'), T_clean(x')) + (1-a-b) CE(S(x'), y): IAD-II.

    a = alpha, b = alpha_clean, w as in `iad`; KLs to a teacher are at temperature tau and times tau^2.
    """
    w = trust(z, beta, begin)
    clean = z.by("clean")
    return weighted(
        z,
        (alpha, "teacher", lambda: w * tau**2 * kl(z.s_adv, z.t_adv, tau, kl_scale, z.batch_size)),
        (alpha, "self", lambda: (1 - w) * kl(z.s_adv, z.s, scale=kl_scale, batch=z.batch_size)),
        (alpha_clean, "clean", lambda: tau**2 * kl(z.s_adv, clean.t_adv, tau, kl_scale, z.batch_size)),
        (1 - alpha - alpha_clean, "ce", lambda: ce(z.s_adv, z.y)),
    )


def rslad(z: Logits, *, alpha: Fraction = 5 / 6, kl_scale: KLScale = "rslad") -> Tensor:
    """alpha KL(S(x'), T(x)) + (1 - alpha) KL(S(x), T(x)): RSLAD (Zi et al. 2021). No labels."""
    return weighted(
        z,
        (alpha, "kl_adv", lambda: kl(z.s_adv, z.t, scale=kl_scale, batch=z.batch_size)),
        (1 - alpha, "kl_nat", lambda: kl(z.s, z.t, scale=kl_scale, batch=z.batch_size)),
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
    """c KL(S(x'), T(x')) + alpha TRD, c = 0.1 for kl_scale rslad and 1 for batchmean: MMARD (Eq. 4 and 7).

    With alpha = 0 it is AdaAD's outer objective. `space`, `reduction` and `delta` belong to TRD (see `trd`);
    `kl_scale` multiplies the KL alone.
    """
    return weighted(
        z,
        (1, "kl", lambda: kl(z.s_adv, z.t_adv, scale=kl_scale, batch=z.batch_size)),
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
    return huber(student, teacher, delta) * (z.batch_size if reduction == "sum" else 1)


def weighted(z: Logits, *terms: tuple[float, str, Callable[[], Tensor]], zero_terms: bool = False) -> Tensor:
    """Sum of weight x term, in order; each is noted by its name, one with weight 0 is not evaluated."""
    values = [z.term(name, weight * term()) for weight, name, term in terms if weight or zero_terms]
    return sum(values[1:], start=values[0])


def natural(z: Logits, forwards: Forwards) -> Tensor:
    """S(x); of two forwards the second one, as in code that runs x again: BatchNorm moves twice."""
    first = z.s
    return first if forwards == 1 else z.student(z.x)


def trust(z: Logits, beta: float, begin: float) -> Tensor:
    """w = T_y(x')^beta `[B]`, a constant: how far the teacher is right on x'. 1 before the fraction `begin` is over."""
    w = prob(z.t_adv, z.y).detach() ** beta
    return torch.where(z.progress < begin, torch.ones_like(w), w)


@hookimpl
def register_inner_objectives() -> dict[str, Objective]:
    return {
        "none": no_attack,
        "ce": ce_adv,
        "kl-student": kl_student,
        "kl-teacher": kl_teacher,
        "kl-teacher-adv": kl_teacher_adv,
    }


@hookimpl
def register_outer_objectives() -> dict[str, Objective | type[nn.Module]]:
    return {
        "nature": nature,
        "sat": sat,
        "trades": trades,
        "ard": ard,
        "iad": iad,
        "iad-ii": iad_ii,
        "rslad": rslad,
        "mtard": MTARD,
        "mmard": mmard,
    }
