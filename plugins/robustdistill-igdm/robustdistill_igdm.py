"""IGDM: the student's change along the attack's direction follows the teacher's, around any method.

Source: Lee, Cho & Kim, Indirect Gradient Matching for Adversarial Robust Distillation, ICLR 2025 (arXiv 2312.03286).
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from robustdistill import Logits, Modifier, Objective, hookimpl
from robustdistill.losses import full_precision, kl


class IGDM(Modifier):
    """Adds alpha (e / E) KL(S(x + d) - S(x - d), T(x + d) - T(x - d)), d = x' - x, to the outer objective.

    The differences of logits stand for the gradients along d. e / E is the share of the epochs that is over; x - d is
    not clipped to [0, 1]. One more forward of each network a step, after those of the host. Reads the teacher `robust`.
    """

    def __init__(self, *, alpha: Annotated[float, Field(ge=0)] = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def wrap(self, inner: Objective, outer: Objective) -> tuple[Objective, Objective]:
        return inner, lambda z: outer(z) + z.term("igdm", self.alpha * z.progress * gradient_matching(z))


def gradient_matching(z: Logits) -> Tensor:
    """KL(S(x + d) - S(x - d), T(x + d) - T(x - d)), d = x' - x. Returns `[B]`; the teacher's side is a constant."""
    mirrored = 2 * z.x - z.x_adv  # x - d
    student = full_precision(z.s_adv) - full_precision(z.student(mirrored))
    teacher = full_precision(z.t_adv) - full_precision(z.teacher(mirrored))
    return kl(student, teacher.detach())


@hookimpl
def register_modifiers() -> dict[str, type[Modifier]]:
    return {"igdm": IGDM}
