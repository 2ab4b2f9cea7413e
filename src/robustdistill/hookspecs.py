"""The hooks of robustdistill, all of them. A plugin implements any, with `@robustdistill.hookimpl`.

Each returns a mapping from names to what it provides. Names are lower-case words joined by hyphens.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from robustdistill.types import Attack, Dataset, DatasetAt, Method, Model, Modifier, Objective, Teacher

PROJECT = "robustdistill"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_attacks() -> "Mapping[str, Attack]":
    """Attacks, for training and evaluation: a function, an objective, presets."""
    raise NotImplementedError


@hookspec
def register_inner_objectives() -> "Mapping[str, Objective]":
    """Objectives that the attack ascends to make x'."""
    raise NotImplementedError


@hookspec
def register_outer_objectives() -> "Mapping[str, Objective]":
    """Objectives that the student descends."""
    raise NotImplementedError


@hookspec
def register_models() -> "Mapping[str, Model]":
    """Architectures, for students and teachers."""
    raise NotImplementedError


@hookspec
def register_teachers() -> "Mapping[str, Teacher]":
    """Trained teachers by name."""
    raise NotImplementedError


@hookspec
def register_methods() -> "Mapping[str, Method]":
    """Named pairs (inner, outer) with their protocol and variants."""
    raise NotImplementedError


@hookspec
def register_modifiers() -> "Mapping[str, type[Modifier]]":
    """Modifiers that wrap any method (`--with NAME`)."""
    raise NotImplementedError


@hookspec
def register_datasets() -> "Mapping[str, Dataset | DatasetAt]":
    """Data sets: a loader, and what they own of a run; "mine:{path}" finds one at a path."""
    raise NotImplementedError
