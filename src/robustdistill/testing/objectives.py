"""The contract of an objective, inner or outer: every check of it, in order."""

from robustdistill.testing import conduct, values
from robustdistill.testing.case import Case
from robustdistill.testing.checks import Check

OBJECTIVE_CHECKS: tuple[Check[Case], ...] = (
    conduct.signature,
    conduct.docstring,
    values.shape,
    conduct.global_rng,
    conduct.repeats,
    values.dtype,
    values.finite,
    values.bf16,
    values.examples,
    values.gradient,
    values.reaches,
    conduct.inputs,
    conduct.networks,
    conduct.meta,
    conduct.replays,
    conduct.in_place,
    conduct.keeps,
)
