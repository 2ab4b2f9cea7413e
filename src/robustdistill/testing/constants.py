"""Finite differences of a function that declares parts of itself constant (`detach`, `no_grad`)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Constants(TorchFunctionMode):
    """Notes every value that a function computes outside of autograd; once noted, gives it back instead.

    What is detached, read as `.data`, computed under `no_grad` or a gradient taken without `create_graph` is thus the
    same at neighbouring points, as the function's own gradient says it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[Any, bool]] = []  # a value, and whether it is the first argument, moved in place
        self._place: int | None = None
        self._off = False  # in a `no_grad` of the function's own

    def replay(self) -> "Constants":
        """From the first note on."""
        self._place = 0
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            self._switched(*args, **kwargs)
        if not self._constant(func, kwargs):
            return func(*args, **kwargs)
        if self._place is None:
            found = func(*args, **kwargs)
            self.noted.append((_apart(found), bool(args) and found is args[0]))
            return found
        self._place += 1
        found, in_place = self.noted[self._place - 1]
        if found is None:  # such as `state[i] = constant`: it is done again
            return func(*args, **kwargs)
        return args[0].copy_(found) if in_place else found  # the state of a fresh unit has to follow

    def _switched(self, on: bool) -> None:
        if on or torch.is_grad_enabled():
            self._off = not on  # else it is off already: in the forward of an autograd.Function, which has its gradient

    def _constant(self, func: Any, kwargs: Any) -> bool:
        if func is torch.autograd.grad:
            return not kwargs.get("create_graph")
        if func is torch._C._set_grad_enabled:  # the beginning or the end of a `no_grad`
            return False
        return func in _DETACHING or (self._off and not torch.is_grad_enabled()) or torch.is_inference_mode_enabled()


def _apart(found: Any) -> Any:
    """A value that no longer shares memory: `detach` returns its argument's, which is about to be moved."""
    if isinstance(found, Tensor):
        return found.clone()
    return type(found)(map(_apart, found)) if type(found) in (tuple, list) else found


_DETACHING = (torch.Tensor.detach, torch.detach, torch.Tensor.data.__get__)  # type: ignore[attr-defined]


def slopes(
    function: Callable[[], Tensor], at: Sequence[Tensor], seed: int, h: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """Along a random direction at the leaves `at` (float64): by the gradient, by finite differences, and the scale.

    `function()` -> `[B]`, weighted at random and summed; the scale is what rounding errors are relative to.
    """
    g = torch.Generator().manual_seed(seed)
    ways = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in at]
    constants = Constants()
    with constants:
        values = function()
    weights = torch.randn(values.shape, generator=g, dtype=values.dtype)
    grads = torch.autograd.grad(values @ weights, list(at), allow_unused=True, materialize_grads=True)
    analytic = torch.stack([(p * way).sum() for p, way in zip(grads, ways, strict=True)]).sum()
    ends = []
    for sign in (1, -1):
        with _moved(at, ways, sign * h), constants.replay():
            moved = function()
        ends.append((moved @ weights).detach())
    numeric = (ends[0] - ends[1]) / (2 * h)
    return analytic, numeric, (values.detach().abs() @ weights.abs()) + 1


class _moved:
    """The leaves moved along `ways` for the length of a block."""

    def __init__(self, leaves: Sequence[Tensor], ways: Sequence[Tensor], by: float) -> None:
        self._leaves, self._ways, self._by = leaves, ways, by

    def __enter__(self) -> None:
        self._before = [leaf.detach().clone() for leaf in self._leaves]
        with torch.no_grad():
            for leaf, way in zip(self._leaves, self._ways, strict=True):
                leaf.add_(way, alpha=self._by)

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for leaf, before in zip(self._leaves, self._before, strict=True):
                leaf.copy_(before)
