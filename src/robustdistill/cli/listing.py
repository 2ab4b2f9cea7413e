"""`robustdistill list`."""

import fnmatch
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustdistill.errors import UserError, nearest
from robustdistill.report.numbers import percent

if TYPE_CHECKING:
    from robustdistill.registry import Registry

KINDS = {
    "methods": "method",
    "inner": "inner",
    "outer": "outer",
    "attacks": "attack",
    "models": "model",
    "teachers": "teacher",
    "datasets": "dataset",
    "modifiers": "modifier",
}


def show(
    kind: Annotated[str | None, typer.Argument(help=f"{', '.join(KINDS)}. [all of them]", metavar="KIND")] = None,
    pattern: Annotated[str | None, typer.Argument(help="Names to show, such as 'kl-*'.", metavar="GLOB")] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List what has a name: built in, or from a plugin."""
    if kind is not None and kind not in KINDS:
        raise UserError(f"there is no list of {kind!r}{nearest(kind, KINDS)}")
    from robustdistill.cli import models, progress, render
    from robustdistill.registry import default_registry
    from robustdistill.report.tables import Table

    whole = json_ or kind is not None  # else a line each: nothing is counted, no network is made
    kinds = [kind] if kind else [*KINDS]
    records = [r for name in kinds for r in _records(default_registry(), name, pattern, whole)]
    if json_:
        for record in records:
            progress.emit(record)
    elif kind == "teachers":
        from robustdistill.cli import zoo

        render.show(zoo.table(records))
        render.say(zoo.NOTES)
    elif kind == "datasets":
        from robustdistill.cli import datasets

        render.show(datasets.table(records))
        render.say(datasets.below(records))
    elif kind is None:
        rows = tuple((r["kind"], r["name"], r["summary"]) for r in records if not r.get("family"))
        render.show(Table(("kind", "name", "what it is"), rows, 3))
    elif kind == "models":
        models.show(records)
    else:
        render.show(
            Table(("name", "what it is", "from"), tuple((r["name"], r["summary"], r["from"]) for r in records), 3)
        )


def _records(registry: "Registry", kinds: str, pattern: str | None, whole: bool) -> list[dict[str, Any]]:
    from robustdistill.cli import models

    kind = KINDS[kinds]
    if kind == "model":
        return models.records(registry, pattern, whole)
    units = registry.units(kind)
    names = [
        name
        for name, unit in units.items()
        if pattern is None or any(fnmatch.fnmatchcase(n, pattern) for n in (name, *getattr(unit, "names", ())))
    ]
    if not names and pattern is not None:
        raise UserError(f"none of the {kinds} is named {pattern!r}{nearest(pattern, registry.names(kind))}")
    return [_record(kind, name, registry, whole) for name in names]


def _record(kind: str, name: str, registry: "Registry", whole: bool) -> dict[str, Any]:
    if clash := registry.clash(kind, name):
        return {"kind": kind, "name": name, "summary": clash, "from": "several"}
    entry = registry.entry(kind, name)
    shared = {"kind": kind, "name": name, "summary": summary(kind, entry.unit), "from": source(entry.origin)}
    from robustdistill.cli import datasets, zoo

    if kind == "teacher" and whole:
        return shared | zoo.facts(name, entry.unit, registry)
    return shared | (datasets.facts(entry.unit) if kind == "dataset" and whole else {})


def source(origin: str) -> str:
    """The distribution of a unit: "robustdistill 0.1.0"."""
    return origin.partition(" (")[0]


def summary(kind: str, unit: Any) -> str:
    """What a unit is, in a line."""
    if kind == "teacher":
        return _teacher(unit)
    if kind in ("inner", "outer", "modifier"):
        return first_line(unit)
    return str(unit.summary)


def first_line(unit: Any) -> str:
    """The first line of a unit's docstring."""
    return (inspect.getdoc(unit) or "").partition("\n")[0]


def _teacher(unit: Any) -> str:
    robust = [f"{name} {percent(value)}" for name, value in unit.robust.items()]
    numbers = [*([f"clean {percent(unit.clean)}"] if unit.clean is not None else []), *robust]
    told = f": {', '.join(numbers)} %" if numbers else ""
    also = f" (also {', '.join(unit.names)})" if unit.names else ""
    return f"{unit.model} on {unit.dataset}{told}{also}"
