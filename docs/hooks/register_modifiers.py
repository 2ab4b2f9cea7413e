"""The modifier `also-clean`: any method, and the cross-entropy of the images as they are."""

from typing import Annotated

from pydantic import Field

from robustdistill import Modifier, Objective, hookimpl
from robustdistill.losses import ce


class AlsoClean(Modifier):
    """Adds weight CE(S(x), y) to the outer objective."""

    def __init__(self, *, weight: Annotated[float, Field(ge=0)] = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def wrap(self, inner: Objective, outer: Objective) -> tuple[Objective, Objective]:
        return inner, lambda z: outer(z) + self.weight * ce(z.s, z.y)


@hookimpl
def register_modifiers() -> dict[str, type[Modifier]]:
    return {"also-clean": AlsoClean}
