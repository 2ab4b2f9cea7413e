"""MTARD's outer objective: two teachers, whose weights may follow how fast the student learns from each."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from robustdistill.logits import Logits
from robustdistill.losses import KLScale, full_precision, kl, kl_factor


class MTARD(nn.Module):
    """w KL(S(x), T_clean(x)) + (1 - w) KL(S(x'), T_robust(x')): MTARD (Zhao et al. 2022), w = alpha at the start.

    `dynamic`: before every step, with L_n, L_a the two batch means and r = L / L(first step) of each,

        w <- w - eta (w - r_n / (r_n + r_a)),

    eta multiplied by 0.1 at each of the epochs `milestones`. `log_offset` is added to the teachers' probabilities
    inside the logarithm of those two means, as the published code does (1e-5); gradients do not see it.
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.5,
        kl_scale: KLScale = "rslad",
        dynamic: bool = False,
        eta: Annotated[float, Field(ge=0, le=1)] = 0.025,
        milestones: tuple[int, ...] = (),
        log_offset: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__()
        self.alpha, self.kl_scale, self.dynamic, self.eta = float(alpha), kl_scale, dynamic, eta
        self.milestones, self.log_offset = milestones, log_offset
        self.weight: Tensor
        self.first: Tensor
        self.register_buffer("weight", torch.tensor(self.alpha))
        self.register_buffer("first", torch.zeros(2))

    def forward(self, z: Logits) -> Tensor:
        """`[B]`; the term of x' is computed before that of x."""
        clean, robust = z.by("clean"), z.by("robust")
        adversarial = kl(z.s_adv, robust.t_adv, scale=self.kl_scale, batch=z.batch_size)
        natural = kl(z.s, clean.t, scale=self.kl_scale, batch=z.batch_size)
        if self.dynamic:
            values = natural + self._offset(z, clean.t), adversarial + self._offset(z, robust.t_adv)
            self._balance(z, torch.stack([z.mean(v.detach()) for v in values]).to(self.first))
        weight = self.weight.clone() if self.dynamic else self.alpha  # the buffer may move before the backward pass
        return z.term("kl_adv", (1 - weight) * adversarial) + z.term("kl_nat", weight * natural)

    @torch.no_grad()
    def _balance(self, z: Logits, now: Tensor) -> None:
        self.first.copy_(torch.where(self.first == 0, now, self.first))
        # A student that starts as a copy of its teachers has lost nothing yet: 0 / 0 is the first step's own ratio, 1.
        natural, adversarial = torch.where(self.first == 0, 1, now / self.first)
        total = natural + adversarial
        share = torch.where(total == 0, self.weight, natural / total)
        drops = sum(((z.epoch >= m).to(now) for m in self.milestones), now.new_zeros(()))
        rate = self.eta * 0.1**drops
        self.weight.sub_(rate * (self.weight - share))

    def _offset(self, z: Logits, target: Tensor) -> Tensor:
        p = torch.softmax(full_precision(target), dim=-1)
        more = torch.xlogy(p, p + self.log_offset) - torch.xlogy(p, p)
        return kl_factor(self.kl_scale, target, z.batch_size) * more.sum(dim=-1)
