"""What plugins are made of: objectives and attacks are functions, everything else is a record or a module."""

from robustdistill.types.attacks import Attack, AttackFn, Ensemble, Outcome, Progress, Stage, Watch
from robustdistill.types.data import Augment, Dataset, DatasetAt, OnDisk, Split, Splits
from robustdistill.types.methods import Method, Recipe, Variant
from robustdistill.types.modifiers import Closure, Modifier, descend, gradients
from robustdistill.types.networks import Model, Teacher, Weights
from robustdistill.types.objectives import Objective

__all__ = [
    "Attack",
    "AttackFn",
    "Augment",
    "Closure",
    "Dataset",
    "DatasetAt",
    "Ensemble",
    "Method",
    "Model",
    "Modifier",
    "Objective",
    "OnDisk",
    "Outcome",
    "Progress",
    "Recipe",
    "Split",
    "Splits",
    "Stage",
    "Teacher",
    "Variant",
    "Watch",
    "Weights",
    "descend",
    "gradients",
]
