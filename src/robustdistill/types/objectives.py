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
    """

    def __call__(self, z: Logits, /) -> Tensor: ...
