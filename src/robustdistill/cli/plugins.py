"""`robustdistill plugins`."""

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustdistill.errors import PluginError, UserError, nearest

if TYPE_CHECKING:
    from robustdistill.plugins import Plugin
    from robustdistill.registry import Registry

app = typer.Typer(help="What is installed, whether it keeps its contract, and a package to begin your own with.")


@app.callback(invoke_without_command=True)
def _group(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


# ---- list ---------------------------------------------------------------------------------------------------
@app.command("list", short_help="List them: from where, what, and whether they work.")
def show(json_: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List the plugins: where each comes from, what it provides, and whether it works.

    A broken one is shown with its traceback and what to do about it.
    """
    from robustdistill.cli import progress, render
    from robustdistill.plugins import SWITCH, left_out
    from robustdistill.registry import default_registry
    from robustdistill.report.tables import Table

    registry = default_registry()
    records = [*(_record(p, _clashes(p, registry)) for p in registry.plugins), *map(_off, left_out())]
    if json_:
        for record in records:
            progress.emit(record)
        return
    rows = tuple((_short(r["name"]), _from(r), _provided(r["provides"]), r["state"]) for r in records)
    bold = frozenset((i, 3) for i, r in enumerate(records) if r["state"] not in (WORKS, OFF))
    render.show(Table(("plugin", "from", "provides", "state"), rows, words=4, bold=bold))
    for reason in dict.fromkeys(r["reason"] for r in records if r["state"] == CLASHES):
        render.prose("", reason)
    for record in records:
        if record["state"] in (BROKEN, EMPTY):
            _tell(record)
    if out := [r["name"] for r in records if r["state"] == OFF]:
        render.prose("", f"{SWITCH}={os.environ[SWITCH]!r} leaves out {', '.join(out)}")


MARK = "mark its hooks with @robustdistill.hookimpl"
WORKS, BROKEN, EMPTY, CLASHES, OFF = "works", "broken", "empty", "clashes", "left out"


def _record(plugin: "Plugin", clashes: Sequence[str]) -> dict[str, Any]:
    empty = not any(plugin.provides.values())
    state = BROKEN if plugin.error else CLASHES if clashes else EMPTY if empty else WORKS
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "hooks": list(plugin.provides),
        "provides": {hook.removeprefix("register_"): list(names) for hook, names in plugin.provides.items()},
        "state": state,
        "reason": plugin.reason or " ".join(clashes) or ("it provides nothing" if empty else ""),
        "mend": plugin.mend or {CLASHES: "uninstall one of them, or leave one out", EMPTY: MARK}.get(state, ""),
        "traceback": plugin.error,
        "seconds": round(plugin.seconds, 3),
    }


def _off(plugin: "Plugin") -> dict[str, Any]:
    from robustdistill.plugins import SWITCH

    told = {"reason": f"the environment variable {SWITCH} leaves it out", "mend": f"unset {SWITCH}, or name it there"}
    return _record(plugin, ()) | {"state": OFF} | told


def _clashes(plugin: "Plugin", registry: "Registry") -> list[str]:
    from robustdistill.registry import KINDS

    named = ((kind, name) for kind, hook in KINDS.items() for name in plugin.provides.get(hook, {}))
    return [clash for kind, name in named if (clash := registry.clash(kind, name))]


def _short(name: str) -> str:
    return name.removeprefix("robustdistill.builtin.")


def _from(record: Mapping[str, Any]) -> str:
    return f"{record['distribution']} {record['version']}"


def _provided(provides: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{hook.replace('_', ' ')}: {', '.join(names)}" for hook, names in provides.items()) or "-"


def _tell(record: Mapping[str, Any]) -> None:
    """What is wrong with a plugin: the reason, its traceback as Python writes it, what to do."""
    from robustdistill.cli import render

    works = "is empty" if record["state"] == EMPTY else "does not work"
    render.prose("", f"{record['name']} of {_from(record)} {works}: {record['reason']}")
    print(record["traceback"], end="")
    render.prose(f"To mend it: {record['mend']}")


# ---- new ----------------------------------------------------------------------------------------------------
@app.command("new", short_help="Write a package for a method of your own.")
def new(
    name: Annotated[str, typer.Argument(help="The method: lower-case words joined by hyphens.", metavar="NAME")],
    out: Annotated[Path | None, typer.Option(help="New folder. [robustdistill-NAME]", metavar="DIR")] = None,
) -> None:
    """Write an installable package for a new method: its module, pyproject.toml, test and README.

    The method works as it is; change its formula. Prints the three commands that install, test and train it.
    """
    from robustdistill.cli.drive import quoted
    from robustdistill.scaffold import write

    folder = write(name, out)
    print(f"wrote {folder}", file=sys.stderr)
    print(f"pip install -e {quoted(f'{folder}[test]')}")
    print(f"pytest {quoted(folder)}")
    print(f"robustdistill train --method {name} --data digits")


# ---- check --------------------------------------------------------------------------------------------------
@app.command("check", short_help="Hold what a plugin provides to its contract.")
def check(
    name: Annotated[
        str | None,
        typer.Argument(help="A plugin, a distribution, or anything that one provides. [all but the built-in ones]"),
    ] = None,
    skip: Annotated[str, typer.Option(help="Checks to leave out, by commas.", metavar="NAMES")] = "",
    json_: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Hold what a plugin provides to its contract: shapes, gradients, state, no host sync, no trace left behind.

    Prints what each check found; exit code 7 if one fails. In tests: robustdistill.testing.
    """
    from robustdistill.cli import progress, render
    from robustdistill.registry import default_registry
    from robustdistill.testing.plugin import check_plugin

    registry = default_registry()
    left_out = [text.strip() for text in skip.split(",") if text.strip()]
    records: list[dict[str, str]] = []
    try:
        with render.waiting("checking") as say:
            for plugin, unit in _asked(name, registry):
                for row in check_plugin(plugin, registry, left_out, unit):
                    say(f"checking {row.kind} {row.name}")
                    found = row.finding
                    record = {"plugin": plugin.name, "kind": row.kind, "unit": row.name, "check": found.check}
                    records.append(record | {"state": found.state, "found": found.sentence})
                    if json_:
                        progress.emit(records[-1])
    except ValueError as error:
        raise UserError(str(error)) from None
    if not json_:
        _show(records)
    if failing := [r for r in records if r["state"] == "fails"]:
        units = dict.fromkeys(f"{r['kind']} {r['unit']}" for r in failing)
        raise PluginError(f"{len(failing)} of {len(records)} checks fail: {', '.join(units)}")


def _show(records: Sequence[Mapping[str, str]]) -> None:
    from robustdistill.cli import render
    from robustdistill.report.tables import Table

    columns = ["plugin", "kind", "unit", "check", "state", "found"]
    if len({r["plugin"] for r in records}) == 1:
        columns.remove("plugin")
    rows = tuple(tuple(_short(r[column]) for column in columns) for r in records)
    bold = frozenset((i, columns.index("state")) for i, r in enumerate(records) if r["state"] == "fails")
    render.show(Table(tuple(columns), rows, words=len(columns), bold=bold))
    counts = Counter(r["state"] for r in records)
    render.say([f"{len(records)} checks: {counts['ok']} ok, {counts['fails']} fail, {counts['-']} do not apply"])


def _asked(name: str | None, registry: "Registry") -> "list[tuple[Plugin, str | None]]":
    """The plugins to check, each whole or one of its units by name. UserError where there is none."""
    found: list[tuple[Plugin, str | None]] = [(p, None) for p in registry.plugins if _is(p, name)]
    if not found:
        found = [(p, name) for p in registry.plugins if any(name in units for units in p.provides.values())]
    known = [_short(p.name) for p in registry.plugins]
    if name is None and not found:
        raise UserError(f"no plugin is installed but the built-in ones; name one to check it: {', '.join(known)}")
    if name is not None and not found:
        raise UserError(f"no plugin is or provides {name!r}{nearest(name, known)}")
    return found


def _is(plugin: "Plugin", name: str | None) -> bool:
    if name is None:
        return not plugin.built_in
    return name in (plugin.name, _short(plugin.name), plugin.distribution)
