"""blend: distil a mixture of the teacher's answers on x and on x'."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from robustdistill import Logits, Method, Recipe, hookimpl
from robustdistill.losses import KLScale, kl


def blend(z: Logits, *, mix: Annotated[float, Field(ge=0, le=1)] = 0.5, kl_scale: KLScale = "batchmean") -> Tensor:
    """KL(S(x'), mix T(x) + (1 - mix) T(x')), the mixture on logits. No labels."""
    return kl(z.s_adv, mix * z.t + (1 - mix) * z.t_adv, scale=kl_scale, batch=z.batch_size)


@hookimpl
def register_outer_objectives() -> dict[str, object]:
    return {"blend": blend}


@hookimpl
def register_methods() -> dict[str, Method]:
    recipe = Recipe(epochs=200, schedule="cosine")
    return {"blend": Method("kl-teacher-adv", "blend", "T(x) and T(x') mixed", cite="the tutorial", recipe=recipe)}
