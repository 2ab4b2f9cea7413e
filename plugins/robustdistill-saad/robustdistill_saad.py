"""SAAD: an inner problem with a linearised teacher, and weights by how uncertain the teacher is on x'.

Source: Lee & Chung, Sample-wise Adaptive Weighting for Transfer Consistency in Adversarial Distillation, TMLR 2026
(arXiv 2512.10275). KL(S, T) is KL(p_T || p_S): the teacher is the reference.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from robustdistill import Logits, Method, Recipe, Variant, hookimpl
from robustdistill.losses import full_precision, kl, true_class

Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


# ---- inner ----------------------------------------------------------------------------------------------
def kl_teacher_linear(z: Logits, *, lam: Weight = 1.0) -> Tensor:
    """KL(S(x'), T~(x')): T~(x') is T(x) with its true-class logit corrected to first order.

        T~_y(x') = T_y(x) + lam <grad_x T_y(x), x' - x>

    The teacher runs forwards and backwards once a batch; the gradient reaches x' through S and the correction.
    """
    slope = z.once("saad slope", lambda: input_gradient(z))
    move = lam * (slope * (z.x_adv - z.x)).flatten(1).sum(dim=1)
    target = natural_target(z)
    return kl(z.s_adv, target + true_class(target, z.y) * move[:, None])


def natural_target(z: Logits) -> Tensor:
    """T(x) `[B, C]`, a constant, from the forward that its input gradient needs too."""
    return full_precision(_forward(z)).detach()


def input_gradient(z: Logits) -> Tensor:
    """grad_x T_y(x), example by example, of the shape of x: examples do not meet in a teacher in eval mode."""
    logits = _forward(z)
    at_true_class = logits.masked_fill(~true_class(logits, z.y), 0).sum()
    (slope,) = torch.autograd.grad(at_true_class, _images(z))
    return slope


def _images(z: Logits) -> Tensor:
    return z.once("saad x", lambda: z.x.detach().clone().requires_grad_())


def _forward(z: Logits) -> Tensor:
    return z.once("saad t", lambda: z.teacher(_images(z)))


# ---- outer ----------------------------------------------------------------------------------------------
def saad(z: Logits, *, alpha: Weight = 1.0, beta: Weight = 0.0, scale: Positive = 5.0, order: Positive = 1.0) -> Tensor:
    """w [KL(S(x'), T(x')) + alpha (e / E) IGDM] + beta (1 - w / max w) KL(S(x), T(x)): SAAD.

        w = scale (H - min H),   H the Renyi entropy of `order` of T(x') (order 1: Shannon's)

    Minimum and maximum are those of the batch; w is a constant. IGDM is KL(S(x') - S(x - d), T(x') - T(x - d)) with
    d = x' - x, ramped up by the share e / E of the epochs that is over. With beta = 0, x is not read.
    """
    h = entropy(z.t_adv, order).detach()
    w = scale * (h - z.min(h))
    loss = z.term("kl_adv", w * kl(z.s_adv, z.t_adv))
    if alpha:
        loss = loss + z.term("igdm", w * alpha * z.progress * gradient_matching(z))
    if beta:
        most = -z.min(-w)
        easy = 1 - w / torch.where(most > 0, most, 1)
        loss = loss + z.term("kl_nat", beta * easy * kl(z.s, natural_target(z)))
    return loss


def entropy(logits: Tensor, order: float) -> Tensor:
    """Renyi entropy log(sum_c p_c^order) / (1 - order) of softmax(logits); order 1: -sum_c p_c log p_c. `[B]`, nats."""
    log_p = torch.log_softmax(full_precision(logits), dim=-1)
    if order == 1:
        return -(log_p.exp() * log_p).sum(dim=-1)
    return torch.logsumexp(order * log_p, dim=-1) / (1 - order)


def gradient_matching(z: Logits) -> Tensor:
    """IGDM's term, KL(S(x + d) - S(x - d), T(x + d) - T(x - d)), d = x' - x; x - d is not clipped. `[B]`."""
    mirrored = 2 * z.x - z.x_adv
    student = full_precision(z.s_adv) - full_precision(z.student(mirrored))
    teacher = full_precision(z.t_adv) - full_precision(z.teacher(mirrored))
    return kl(student, teacher.detach())


SAAD = Method(
    inner="kl-teacher-linear",
    outer="saad",
    summary="the teacher linearised in the attack; its uncertain answers on x' weigh more",
    cite="Lee & Chung, TMLR 2026 (arXiv 2512.10275)",
    recipe=Recipe(epochs=200, milestones=(100, 150)),
    variants={
        "official": Variant(
            {"average": {"name": "swa", "start": 0.475}},
            ("the weights are averaged from epoch 95 of 200 on, and the average is judged",),
        ),
        "cifar100": Variant({"outer": {"alpha": 10.0}}, ("the published code's weight of IGDM on CIFAR-100",)),
    },
    notes=("the weights of a batch hang together: its most certain example has weight 0",),
)


@hookimpl
def register_inner_objectives() -> dict[str, object]:
    return {"kl-teacher-linear": kl_teacher_linear}


@hookimpl
def register_outer_objectives() -> dict[str, object]:
    return {"saad": saad}


@hookimpl
def register_methods() -> dict[str, Method]:
    return {"saad": SAAD}
