"""A plugin's objective that fails in the trial step: what was raised, on whose line, and advice where it fits."""

from typing import Any

import pytest
import torch
from torch import Tensor

from robustdistill.assemble import build_student, reads_of
from robustdistill.errors import PluginError
from robustdistill.logits import Logits
from robustdistill.plugins import Plugin
from robustdistill.registry import Registry, default_registry
from robustdistill.resolve import resolve
from robustdistill.types import Objective

ADVICE = "must not ask the host"


def misspelt(z: Logits) -> Tensor:
    return z.studnet(z.x)  # type: ignore[attr-defined,no-any-return]


def masked(z: Logits) -> Tensor:
    return z.student(z.x)[z.y > 0].sum(1)


def read(z: Logits) -> Tensor:
    return z.student(z.x).sum(1) * float(z.y.sum())


def as_numpy(z: Logits) -> Tensor:
    return torch.from_numpy(z.student(z.x).detach().numpy()).sum(1)


def mismatched(z: Logits) -> Tensor:
    return z.student(z.x) @ torch.ones(3, 3)


def sentence(objective: Objective) -> str:
    units: dict[str, Any] = {"register_outer_objectives": {"bad": objective}}
    registry = Registry([*default_registry().plugins, Plugin("x", "x", "1", units)])
    spec = resolve([{"method": "sat", "outer": {"name": "bad"}}], registry)
    dataset = registry.dataset("digits", None)
    with pytest.raises(PluginError) as caught:
        reads_of(spec, build_student(spec, dataset, registry), dataset, registry)
    return str(caught.value)


@pytest.mark.parametrize("objective", [masked, read, as_numpy])
def test_reading_on_the_host_is_advised_against(objective: Objective) -> None:
    said = sentence(objective)
    assert ADVICE in said
    assert f"({__file__}, line {objective.__code__.co_firstlineno + 1})" in said


def test_another_error_is_told_as_it_is_with_its_line() -> None:
    said = sentence(misspelt)
    assert "AttributeError" in said
    assert "studnet" in said
    assert f"({__file__}, line {misspelt.__code__.co_firstlineno + 1})" in said
    assert ADVICE not in said
    assert "outer 'bad'" in said
    assert f"line {mismatched.__code__.co_firstlineno + 1}" in sentence(mismatched)
