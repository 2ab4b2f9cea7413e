"""An objective to check, and where the checks pose it."""

import copy
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from robustdistill.testing.checks import called
from robustdistill.testing.problem import Watched, sized
from robustdistill.types import Objective


@dataclass(frozen=True)
class Case:
    """An objective to check: the unit as it is registered, its role (inner or outer), parameters."""

    unit: Any
    role: str = "outer"
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def what(self) -> str:
        return self.name or called(self.unit)

    def make(self, dtype: torch.dtype = torch.float64) -> Objective:
        """A fresh objective; its state in `dtype`, as a run of that precision has it."""
        if isinstance(self.unit, nn.Module):
            return copy.deepcopy(self.unit).to(dtype)
        params = sized(self.unit) | dict(self.params)
        made = self.unit(**params) if inspect.isclass(self.unit) else functools.partial(self.unit, **params)
        return cast(Objective, made.to(dtype) if isinstance(made, nn.Module) else made)

    def loss(self, z: Watched) -> torch.Tensor:
        """The loss of a fresh objective on `z`."""
        return self.make(z.x.dtype)(z)

    @property
    def learning(self) -> bool:
        return self.role == "outer"
