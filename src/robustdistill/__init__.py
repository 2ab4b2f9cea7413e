"""robustdistill: Adversarial Robustness Distillation.

Public names are imported when first used: importing the package does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from robustdistill.hookspecs import hookimpl, hookspec

__version__ = "0.1.0"

if TYPE_CHECKING:
    from robustdistill import testing as testing
    from robustdistill.judging import evaluate as evaluate
    from robustdistill.logits import Logits as Logits
    from robustdistill.run import load as load
    from robustdistill.run import resume as resume
    from robustdistill.run import train as train
    from robustdistill.spec import RunSpec as RunSpec
    from robustdistill.types import Attack, Dataset, Method, Model, Modifier, Objective, Recipe, Teacher, Variant

_HOMES = {
    "run": ("train", "resume", "load"),
    "judging": ("evaluate",),
    "logits": ("Logits",),
    "spec": ("RunSpec",),
    "types": ("Attack", "Dataset", "Method", "Model", "Modifier", "Objective", "Recipe", "Teacher", "Variant"),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Attack",
    "Dataset",
    "Logits",
    "Method",
    "Model",
    "Modifier",
    "Objective",
    "Recipe",
    "RunSpec",
    "Teacher",
    "Variant",
    "__version__",
    "evaluate",
    "hookimpl",
    "hookspec",
    "load",
    "resume",
    "testing",
    "train",
]


def __dir__() -> list[str]:
    """What is imported when first used too, so that completion shows it."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name == "testing":
        return importlib.import_module("robustdistill.testing")
    if name not in _WHERE:
        raise AttributeError(f"module 'robustdistill' has no attribute {name!r}")
    return getattr(importlib.import_module(f"robustdistill.{_WHERE[name]}"), name)
