"""AdaAD and AdaIAD: the student follows the teacher on x', where the teacher itself moves with the attack.

Source: Huang et al., Boosting Accuracy and Robustness of Student Models via Adaptive Adversarial Distillation,
CVPR 2023. KL(S, T) is KL(p_T || p_S): the teacher is the reference.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustdistill import Logits, Method, Recipe, Variant, hookimpl
from robustdistill.losses import KLScale, kl, prob

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def adaad(z: Logits, *, alpha: Fraction = 1.0, kl_scale: KLScale = "batchmean") -> Tensor:
    """alpha KL(S(x'), T(x')) + (1 - alpha) KL(S(x), T(x)): AdaAD. With alpha = 1, x is not read. No labels.

    The term of x runs first, as in the published code.
    """
    natural = z.term("kl_nat", (1 - alpha) * kl(z.s, z.t, scale=kl_scale, batch=z.batch_size)) if alpha < 1 else 0.0
    return natural + z.term("kl_adv", alpha * kl(z.s_adv, z.t_adv, scale=kl_scale, batch=z.batch_size))


def adaiad(
    z: Logits,
    *,
    beta: Annotated[float, Field(ge=0)] = 0.1,
    tau: Positive = 30.0,
    begin: Fraction = 0.3,
    teacher_weight: Literal["w", "one"] = "w",
    kl_scale: KLScale = "batchmean",
) -> Tensor:
    """w tau^2 KL(S^tau(x'), T^tau(x')) + (1 - w) KL(S(x'), S(x)), w = T_y(x')^beta, a constant: AdaIAD.

    w is 1 until the fraction `begin` of the epochs is over. `teacher_weight = "one"` leaves the first term unweighted,
    as the published code does. The gradient flows into both S(x') and S(x).
    """
    w = prob(z.t_adv, z.y).detach() ** beta
    w = torch.where(z.progress < begin, torch.ones_like(w), w)
    first = w if teacher_weight == "w" else 1.0
    teacher = z.term("teacher", first * tau**2 * kl(z.s_adv, z.t_adv, tau, kl_scale, z.batch_size))
    return teacher + z.term("self", (1 - w) * kl(z.s_adv, z.s, scale=kl_scale, batch=z.batch_size))


CITE = "Huang et al., CVPR 2023"
RECIPE = Recipe(epochs=200, milestones=(100, 150), weight_decay=5e-4)
WIDE = Variant(
    {"eps": "16/255", "attack": {"step": "4/255"}},
    ("twice the radius, eps 16/255 and steps of 4/255: what the published code does when it is given no flags",),
)

ADAAD = Method(
    inner="kl-teacher-adv",
    outer="adaad",
    summary="the teacher's prediction T(x') in both problems, its gradient too",
    cite=CITE,
    recipe=RECIPE,
    variants={
        "official": Variant(
            {"outer": {"kl_scale": "element_mean"}},
            (
                "the KL is a mean over classes too, a tenth of the textbook one: the published code on CIFAR-10",
                "on CIFAR-100 the published code has the textbook KL: the method itself",
            ),
        ),
        "wide": WIDE,
    },
    notes=("mmard with alpha = 0 is this method, but for the schedule and the scale of the KL",),
)

ADAIAD = Method(
    inner="kl-teacher-adv",
    outer="adaiad",
    summary="AdaAD that trusts the teacher as far as it is right on x', else the student itself",
    cite=CITE,
    recipe=RECIPE,
    variants={
        "official": Variant(
            {"outer": {"teacher_weight": "one"}}, ("the teacher's term is never multiplied by w, as in IAD's code",)
        ),
        "wide": WIDE,
    },
    notes=("w is 1 for the first 30 % of the epochs (60 of 200)",),
)


@hookimpl
def register_outer_objectives() -> dict[str, object]:
    return {"adaad": adaad, "adaiad": adaiad}


@hookimpl
def register_methods() -> dict[str, Method]:
    return {"adaad": ADAAD, "adaiad": ADAIAD}
