"""Fair-ARD: classes that break early under attack weigh more in the next epoch, around any method.

Source: Yue et al., Revisiting Adversarial Robustness Distillation from the Perspective of Robust Fairness,
NeurIPS 2023.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from robustdistill import Logits, Modifier, Objective, hookimpl
from robustdistill.losses import true_class

Positive = Annotated[float, Field(gt=0)]
LEAST = 1e-3  # for a class that never withstands a step, 1 / kappa is finite


class Fair(Modifier):
    """Multiplies each example's outer loss by its class's weight w_c, made anew after each epoch.

        w_c = clip((1 / kappa_c)^beta / mean_c (1 / kappa_c)^beta, low, high)

    kappa of an example is the number of attack steps at whose start the student still classifies it right, kappa_c its
    mean over a class's examples of the epoch. In the first epoch every weight is 1. A class that did not occur counts
    as the mean of those that did. Without an attack every weight stays 1.
    """

    def __init__(
        self, *, num_classes: int, beta: Positive = 2.0, low: Positive = 5 / 6, high: Positive = 5 / 2
    ) -> None:
        super().__init__()
        self.beta, self.low, self.high = beta, low, high
        self.weight: Tensor
        self.standing: Tensor
        self.seen: Tensor
        self.register_buffer("weight", torch.ones(num_classes))
        self.register_buffer("standing", torch.zeros(num_classes))  # sum of kappa over the class's examples
        self.register_buffer("seen", torch.zeros(num_classes))  # and how many they are

    def wrap(self, inner: Objective, outer: Objective) -> tuple[Objective, Objective]:
        def counted(z: Logits) -> Tensor:
            value = inner(z)
            self._kappa(z).add_(z.s_adv.argmax(dim=-1) == z.y)
            return value

        def weighted(z: Logits) -> Tensor:
            loss, weight = outer(z), self.weight[z.y]
            z.terms.update({name: weight * term for name, term in z.terms.items()})
            self._note(z)
            return weight * loss

        return counted, weighted

    def _kappa(self, z: Logits) -> Tensor:
        """`[B]`, one for the batch: the attack's steps add to it, the update reads it."""
        return z.once("fair kappa", lambda: torch.zeros_like(z.y, dtype=self.weight.dtype))

    @torch.no_grad()
    def _note(self, z: Logits) -> None:
        classes = true_class(self.weight, z.y).to(self.weight.dtype)
        self.standing.add_(z.total((classes * self._kappa(z)[:, None]).sum(dim=0)))
        self.seen.add_(z.total(classes.sum(dim=0)))

    @torch.no_grad()
    def end_epoch(self) -> None:
        """The weights of the next epoch, and the counts from zero again."""
        kappa = self.standing / self.seen.clamp(min=1)
        kappa = torch.where(self.seen > 0, kappa, kappa.sum() / (self.seen > 0).sum().clamp(min=1))
        hard = kappa.clamp(min=LEAST) ** -self.beta
        self.weight.copy_((hard / hard.mean()).clamp(self.low, self.high))
        self.standing.zero_()
        self.seen.zero_()


@hookimpl
def register_modifiers() -> dict[str, type[Modifier]]:
    return {"fair": Fair}
