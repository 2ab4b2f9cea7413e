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
    from robustdistill.cli import progress, render
    from robustdistill.registry import default_registry
    from robustdistill.report.tables import Table

    records = [r for name in ([kind] if kind else KINDS) for r in _records(default_registry(), name, pattern)]
    if json_:
        for record in records:
            progress.emit(record)
    elif kind is None:
        render.show(
            Table(("kind", "name", "what it is"), tuple((r["kind"], r["name"], r["summary"]) for r in records), 3)
        )
    else:
        render.show(
            Table(("name", "what it is", "from"), tuple((r["name"], r["summary"], r["from"]) for r in records), 3)
        )


def _records(registry: "Registry", kinds: str, pattern: str | None) -> list[dict[str, str]]:
    kind = KINDS[kinds]
    names = [n for n in registry.names(kind) if pattern is None or fnmatch.fnmatchcase(n, pattern)]
    if not names and pattern is not None:
        raise UserError(f"none of the {kinds} is named {pattern!r}{nearest(pattern, registry.names(kind))}")
    return [_record(registry, kind, name) for name in names]


def _record(registry: "Registry", kind: str, name: str) -> dict[str, str]:
    if clash := registry.clash(kind, name):
        return {"kind": kind, "name": name, "summary": clash, "from": "several"}
    entry = registry.entry(kind, name)
    return {"kind": kind, "name": name, "summary": summary(kind, entry.unit), "from": source(entry.origin)}


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
    return f"{unit.model} on {unit.dataset}{told}"
