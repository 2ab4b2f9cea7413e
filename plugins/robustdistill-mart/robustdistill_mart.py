"""MART: adversarial training that weighs examples by how badly they are classified already. No teacher.

Source: Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified Examples, ICLR 2020.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from robustdistill import Logits, Method, Recipe, Variant, hookimpl
from robustdistill.losses import ce, full_precision, kl, prob, true_class

Weight = Annotated[float, Field(ge=0)]


def mart(z: Logits, *, lam: Weight = 5.0, guard: Weight = 0.0) -> Tensor:
    """BCE(S(x'), y) + lam (1 - S_y(x)) KL(S(x'), S(x)): MART. S_y is a probability.

    The gradient flows into both S(x) and S(x'), and through the weight. x runs first, as in the published code.
    """
    natural = z.s
    bce = z.term("bce", boosted_ce(z.s_adv, z.y, guard))
    return bce + z.term("kl", lam * (1 - prob(natural, z.y)) * kl(z.s_adv, natural))


def boosted_ce(logits: Tensor, y: Tensor, guard: float = 0.0) -> Tensor:
    """BCE: -log p_y - log(1 - max_{j != y} p_j + guard). Returns `[B]`; 0 where p_y is 1 (and guard 0).

    1 - p_j is summed from the other classes' probabilities, in logarithms: exact however close p_j is to 1.
    """
    log_p = torch.log_softmax(full_precision(logits), dim=-1)
    strongest = log_p.masked_fill(true_class(log_p, y), -torch.inf).argmax(dim=-1)
    others = torch.logsumexp(log_p.masked_fill(true_class(log_p, strongest), -torch.inf), dim=-1)
    if guard:
        others = torch.logaddexp(others, torch.full_like(others, math.log(guard)))
    return ce(logits, y) - others


MART = Method(
    inner="ce",
    outer="mart",
    summary="the boosted cross-entropy on x', and consistency where x itself is in doubt",
    cite="Wang et al., ICLR 2020",
    recipe=Recipe(epochs=120, milestones=(75, 90, 100), lr=0.01, weight_decay=3.5e-3),
    variants={
        "official": Variant(
            {"eps": 0.031, "attack": {"step": 0.007}, "outer": {"guard": 1e-4}},
            (
                "eps 0.031 and steps of 0.007, not 8/255 and 2/255",
                "1e-4 is added to 1 - p inside the boosted term's logarithm",
            ),
        )
    },
    notes=("reads no teacher", "with two classes the boosted term is the cross-entropy once more"),
)


@hookimpl
def register_outer_objectives() -> dict[str, object]:
    return {"mart": mart}


@hookimpl
def register_methods() -> dict[str, Method]:
    return {"mart": MART}
