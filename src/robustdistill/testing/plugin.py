"""Everything that a plugin provides, checked: what `robustdistill plugins check` runs."""

import itertools
import re
import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from robustdistill.assemble import NO_ATTACK
from robustdistill.engine.step import belongs_to
from robustdistill.plugins import Plugin
from robustdistill.registry import KINDS, Registry, callable_of, params_model
from robustdistill.testing.attacks import ATTACK_CHECKS, AttackCase
from robustdistill.testing.case import Case
from robustdistill.testing.checks import FAILS, NONE, OK, Check, Finding, examine, name_of
from robustdistill.testing.methods import METHOD_CHECKS, MethodCase
from robustdistill.testing.models import MODEL_CHECKS, ModelCase
from robustdistill.testing.modifiers import MODIFIER_CHECKS, ModifierCase
from robustdistill.testing.objectives import OBJECTIVE_CHECKS
from robustdistill.testing.records import DATASET_CHECKS, TEACHER_CHECKS, RecordCase
from robustdistill.types import DatasetAt

CHECKS: Mapping[str, Sequence[Check[Any]]] = {
    "method": METHOD_CHECKS,
    "inner": OBJECTIVE_CHECKS,
    "outer": OBJECTIVE_CHECKS,
    "attack": ATTACK_CHECKS,
    "model": MODEL_CHECKS,
    "teacher": TEACHER_CHECKS,
    "modifier": MODIFIER_CHECKS,
    "dataset": DATASET_CHECKS,
}
NOT_OF_NO_ATTACK = {"reaches", "meta"}  # `none` is ascended by nobody
SIZES = (1, 2, 3, 4, 6, 8, 10, 16, 18, 28, 34)  # tried for the fields of a name such as wrn-{depth}-{width}


@dataclass(frozen=True)
class Row:
    """What one check found of one unit of a plugin."""

    kind: str
    name: str
    finding: Finding


def check_plugin(
    plugin: Plugin, registry: Registry, skip: Collection[str] = (), only: str | None = None
) -> Iterator[Row]:
    """Every check of every unit that `plugin` provides, with its default parameters; `registry` knows it.

    One that does not work, or provides nothing, fails the check `loads` alone.
    `skip` names checks that are left out (ValueError for one that no kind has), `only` the one unit to check.
    """
    known = {name_of(check) for checks in CHECKS.values() for check in checks}
    if unknown := sorted(set(skip) - known):
        raise ValueError(f"there is no check {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    if plugin.error or not any(plugin.provides.values()):
        told = (
            f"{plugin.reason}. To mend it: {plugin.mend}"
            if plugin.error
            else "it provides nothing; is @hookimpl there?"
        )
        yield Row("plugin", plugin.name, Finding("loads", FAILS, told))
    for kind, hook in KINDS.items():
        for name, unit in plugin.provides.get(hook, {}).items():
            if only in (None, name):
                yield Row(kind, name, _name(kind, name, registry))
                yield from (Row(kind, name, finding) for finding in _of(kind, name, unit, registry, skip))


def _name(kind: str, name: str, registry: Registry) -> Finding:
    """Whether the name can be written in a spec and on a command line, and is nobody else's."""
    clash = registry.clash(kind, name)
    if not re.fullmatch(r"[a-z0-9{}]+(-[a-z0-9{}]+)*(:\{[a-z]+\})?", name):
        clash = f"{name!r} is no name: write lower-case words joined by hyphens"
    return Finding("name", FAILS if clash else OK, clash)


def _of(kind: str, name: str, unit: Any, registry: Registry, skip: Collection[str]) -> Iterator[Finding]:
    if isinstance(unit, DatasetAt):
        yield Finding("all", NONE, "it is found at a path; check what `find` returns in a test")
        return
    if kind == "model" and ":{" in name:
        yield Finding("all", NONE, "its name holds another name; check some in a test: check_model(model, ...)")
        return
    if needed := _needed(unit) if kind in ("inner", "outer", "attack", "modifier") else ():
        yield Finding("all", NONE, f"has no defaults for {', '.join(needed)}; check it in a test, with values")
        return
    if kind == "inner" and belongs_to(unit):
        yield Finding("all", NONE, f"a method of {belongs_to(unit)}, checked in the methods that name both")
        return
    own = NOT_OF_NO_ATTACK if (kind, name) == ("inner", NO_ATTACK) else set[str]()
    left_out = {name_of(c) for c in CHECKS[kind]} & (own | set(skip))
    try:
        case = _case(kind, name, unit, registry)
    except AssertionError as error:
        yield Finding("all", FAILS, str(error), error)
        return
    yield from examine(case, CHECKS[kind], left_out)


def _needed(unit: Any) -> list[str]:
    try:
        model = params_model(callable_of(unit))
    except Exception:  # the check of signatures says what is wrong
        return []
    given = getattr(unit, "params", {}) if not isinstance(unit, type) else {}
    return [key for key, f in model.model_fields.items() if f.is_required() and key not in given]


def _case(kind: str, name: str, unit: Any, registry: Registry) -> Any:
    if kind in ("inner", "outer"):
        return Case(unit, kind, {}, name)
    if kind == "attack":
        return AttackCase(unit, {}, name)
    if kind == "modifier":
        return ModifierCase(unit, {}, name, registry)
    if kind == "model":
        return _sized(name, ModelCase(unit, {}, name))
    return MethodCase(name, registry) if kind == "method" else RecordCase(name, registry)


def _sized(name: str, case: ModelCase) -> ModelCase:
    """An architecture with a small value for each field of its name and each parameter without a default."""
    fields = [field for _, field, _, _ in string.Formatter().parse(name) if field]
    if not fields:
        return case
    for values in itertools.product(SIZES, repeat=len(fields)):
        params = dict(zip(fields, values, strict=True))
        found = ModelCase(case.model, params, name.format(**params))
        try:
            with torch.device("meta"):
                found.build()
        except Exception:  # not every number makes a network
            continue
        return found
    raise AssertionError(f"{name} is built by none of {', '.join(map(str, SIZES))} in the place of {', '.join(fields)}")
