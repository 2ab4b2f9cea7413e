"""What an objective is: a function, or a module if it has state."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from robustdistill.logits import Logits


@runtime_checkable
class Objective(Protocol):
    """A loss of one batch: `objective(z) -> [B]`, per example, never reduced.

    Written as a function `(z, *, alpha: float = 1.0, ...)` whose keyword-only arguments are its
    hyper-parameters, or, if it has state, as an `nn.Module` class whose `__init__` takes them and whose
    `forward(z)` is the loss. Inner and outer objectives are the same type; the inner one is ascended.

    An inner objective that needs an outer one's state is a method of its class, registered as it stands in the class
    (`{"mine": Mine.inner}`): a run binds it to its outer objective. A keyword `num_classes` is given by the engine.
    """

    def __call__(self, z: Logits, /) -> Tensor: ...
