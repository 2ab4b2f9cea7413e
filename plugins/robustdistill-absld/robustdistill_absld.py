"""ABSLD: RSLAD whose teacher has a temperature for each class, moved after each epoch towards equal class errors.

Source: Zhao, Wang & Wei, Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation, NeurIPS 2024
(arXiv 2312.05508). KL(S, T) is KL(p_T || p_S): the teacher is the reference.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from robustdistill import Logits, Method, Recipe, Variant, hookimpl
from robustdistill.losses import KLScale, ce, full_precision, kl, true_class

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
EQUAL = 1e-5  # class errors no further apart, relatively, are equal: their differences are rounding


class ABSLD(nn.Module):
    """alpha KL(S(x'), T(x) / tau_y) + (1 - alpha) KL(S(x), T(x) / nu_y): ABSLD. Labels choose temperatures alone.

    Each class c has a temperature tau_c for x' and nu_c for x, both 1 at first. After each epoch

        tau_c <- clip(tau_c - rate (L_c - mean L) / max |L - mean L|, low, high)

    with L_c the student's mean cross-entropy on the class's x' (for nu: on its x) in that epoch: a class with large
    errors gets sharper labels. Equal errors move nothing. `rate` is multiplied by 0.1 at each epoch of `milestones`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        alpha: Fraction = 5 / 6,
        rate: Positive = 0.1,
        milestones: tuple[int, ...] = (),
        low: Positive = 0.5,
        high: Positive = 5.0,
        kl_scale: KLScale = "rslad",
    ) -> None:
        super().__init__()
        self.alpha, self.rate, self.milestones = alpha, rate, milestones
        self.low, self.high, self.kl_scale = low, high, kl_scale
        self.tau: Tensor
        self.errors: Tensor
        self.seen: Tensor
        self.epoch: Tensor
        self.register_buffer("tau", torch.ones(2, num_classes))  # of x', of x
        self.register_buffer("errors", torch.zeros(2, num_classes))  # sums of the epoch's cross-entropies
        self.register_buffer("seen", torch.zeros(num_classes))  # and how many examples they are of
        self.register_buffer("epoch", torch.zeros(()))

    def inner(self, z: Logits) -> Tensor:
        """KL(S(x'), T(x) / tau_y): the inner objective, with the temperatures of the outer one."""
        return kl(z.s_adv, self._target(z, 0))

    def forward(self, z: Logits) -> Tensor:
        """`[B]`; the term of x' is computed before that of x."""
        adversarial = kl(z.s_adv, self._target(z, 0), scale=self.kl_scale, batch=z.batch_size)
        natural = kl(z.s, self._target(z, 1), scale=self.kl_scale, batch=z.batch_size)
        self._note(z)
        return z.term("kl_adv", self.alpha * adversarial) + z.term("kl_nat", (1 - self.alpha) * natural)

    def _target(self, z: Logits, which: int) -> Tensor:
        return full_precision(z.t) / self.tau[which, z.y][:, None]

    @torch.no_grad()
    def _note(self, z: Logits) -> None:
        classes = true_class(self.tau, z.y).to(self.tau.dtype)
        losses = torch.stack([ce(z.s_adv, z.y), ce(z.s, z.y)]).to(self.tau.dtype)
        self.errors.add_(z.total((losses[:, :, None] * classes).sum(dim=1)))
        self.seen.add_(z.total(classes.sum(dim=0)))

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Moves the temperatures, and begins the sums anew. A class that did not occur keeps its own."""
        there = self.seen > 0
        mean = self.errors / self.seen.clamp(min=1)
        centre = mean.sum(dim=1, keepdim=True) / there.sum().clamp(min=1)
        gap = (mean - centre) * there
        widest = gap.abs().amax(dim=1, keepdim=True)
        widest = torch.where(widest > EQUAL * centre, widest, torch.inf)
        drops = sum((self.epoch >= m).to(self.tau) for m in self.milestones)
        rate = self.rate * 0.1 ** torch.as_tensor(drops, device=self.tau.device)
        self.tau.sub_(rate * gap / widest).clamp_(self.low, self.high)
        self.errors.zero_()
        self.seen.zero_()
        self.epoch.add_(1)


DROPS = (215, 260, 285)

METHOD = Method(
    inner="absld",
    outer="absld",
    summary="RSLAD whose soft labels are sharper for the classes that the student gets wrong",
    cite="Zhao, Wang & Wei, NeurIPS 2024 (arXiv 2312.05508)",
    outer_params={"milestones": DROPS},
    recipe=Recipe(epochs=300, milestones=DROPS),
    variants={
        "textbook": Variant({"outer": {"kl_scale": "batchmean"}}, ("the KL at its textbook scale, ten times larger",))
    },
    notes=("the KL is a tenth of the textbook one (kl_scale = rslad), as in RSLAD",),
)


@hookimpl
def register_inner_objectives() -> dict[str, object]:
    return {"absld": ABSLD.inner}


@hookimpl
def register_outer_objectives() -> dict[str, object]:
    return {"absld": ABSLD}


@hookimpl
def register_methods() -> dict[str, Method]:
    return {"absld": METHOD}
