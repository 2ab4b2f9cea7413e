"""`robustdistill plugins`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from robustdistill.plugins import Plugin

app = typer.Typer(help="What is installed: the built-in plugins and those of other distributions.")


@app.callback(invoke_without_command=True)
def _group(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list", short_help="List them: from where, what, and whether they work.")
def show(json_: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List the plugins: where each comes from, what it provides, and whether it works."""
    from robustdistill.cli import progress, render
    from robustdistill.plugins import load_plugins
    from robustdistill.report.tables import Table

    records = [_record(plugin) for plugin in load_plugins()]
    if json_:
        for record in records:
            progress.emit(record)
        return
    rows = [(r["name"], f"{r['distribution']} {r['version']}", _provided(r["provides"]), r["state"]) for r in records]
    render.show(Table(("plugin", "from", "provides", "state"), tuple(rows), words=4))


def _record(plugin: "Plugin") -> dict[str, Any]:
    provides = {hook.removeprefix("register_"): sorted(names) for hook, names in plugin.provides.items()}
    state = f"broken: {plugin.error.strip().splitlines()[-1]}" if plugin.error else "works"
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "provides": provides,
        "state": state,
    }


def _provided(provides: dict[str, list[str]]) -> str:
    return "; ".join(f"{hook.replace('_', ' ')}: {', '.join(names)}" for hook, names in provides.items()) or "-"
