"""`robustdistill bench`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from robustdistill.cli import flags
from robustdistill.errors import UserError
from robustdistill.report.numbers import duration
from robustdistill.report.tables import Table

Flag = typer.Option
ROWS = "eager:fp32,auto"


def bench(
    context: typer.Context,
    config: Annotated[
        list[Path] | None, Flag("--config", "-c", help="Spec file; later ones win.", metavar="FILE")
    ] = None,
    method: Annotated[str | None, Flag(help="Method, or METHOD@VARIANT. [mmard]", metavar="NAME")] = None,
    student: Annotated[str | None, Flag(help="Student; timm's: timm:NAME.", metavar="NAME|PKG.MOD:FACTORY")] = None,
    teacher: Annotated[
        list[str] | None, Flag(help="Teacher, or an architecture: random weights.", metavar="[ROLE=]NAME|FILE")
    ] = None,
    data: Annotated[str | None, Flag(help="Data set. [the teacher's, or digits]", metavar="NAME")] = None,
    data_dir: Annotated[str | None, Flag(help="Folder that holds it. [random images]", metavar="DIR")] = None,
    batch_size: Annotated[int | None, Flag(help="Images a step. [the method's]", metavar="N")] = None,
    device: Annotated[str | None, Flag(help="auto, cpu, cuda or cuda:N. [auto]", metavar="NAME")] = None,
    set_: Annotated[list[str] | None, Flag("--set", help="Any key of a spec.", metavar="KEY=VALUE")] = None,
    rows: Annotated[
        str, Flag(help="What to compare, the first with the others.", metavar="MODE[:PRECISION],...")
    ] = ROWS,
    baseline: Annotated[
        Path | None, Flag(help="Python file with a loop of its own, `epoch(...)`: the first row.", metavar="FILE")
    ] = None,
    seconds: Annotated[float, Flag(help="For each number, at least one step.", metavar="S", min=0)] = 2.0,
    json_: Annotated[bool, Flag("--json", help="One JSON object to stdout.")] = False,
) -> None:
    """Measure how fast steps are: by mode and number format, phase by phase, beside a baseline.

    Nothing is trained or written. Images and teachers that are not at hand are random: the time is the same.
    """
    from robustdistill.bench.session import measure
    from robustdistill.cli import progress, render
    from robustdistill.registry import default_registry
    from robustdistill.resolve import joined, resolve
    from robustdistill.spec import load_layer, set_layer

    given = {k: v for k, v in context.params.items() if v is not None}
    asked = joined(set_layer(set_ or ()), flags.layer(given))
    spec = resolve([*map(load_layer, config or ()), asked], default_registry())
    if baseline is not None and not baseline.is_file():
        raise UserError(f"there is no file {baseline} with a baseline")
    chosen = [r.strip() for r in rows.split(",") if r.strip()]
    with render.waiting("measuring"):
        found = measure(spec, chosen, default_registry(), baseline=baseline, budget=seconds)
    if json_:
        progress.emit({"event": "bench", **found})
        return
    print(heading(found) + "\n")
    for columns in (STEPS, EPOCHS):
        render.show(table(found["rows"], columns))
        print()
    render.say([f"{row['name']}: {note}" for row in found["rows"] for note in row["notes"]])


def heading(found: Mapping[str, Any]) -> str:
    """What was measured, on what."""
    limit = f"{found['limit_tflops']:.3g} TFLOP/s in {found['limit_format']}"
    stand_ins = f"; random {', '.join(found['random'])}" if found["random"] else ""
    who = f"{found['method']}: {found['student']} from {found['teachers'] or 'no teacher'}"
    return (
        f"{who}, batches of {found['batch_size']}, {found['step_tflop']:.3g} TFLOP a step{stand_ins}\n"
        f"{found['device_name']}, torch {found['torch']}; a large matrix product reaches {limit}"
    )


Columns = tuple[tuple[str, str, str], ...]  # title, key of a row, format ("": seconds)
STEPS: Columns = (
    ("images/s", "images_per_second", "{:,.0f}"),
    ("step ms", "step", "{:.1f}"),
    ("augment", "augment", "{:.1f}"),
    ("attack", "attack", "{:.1f}"),
    ("update", "update", "{:.1f}"),
    ("TFLOP/s", "tflops", "{:.3g}"),
    ("of limit", "share", "{:.0%}"),
)
EPOCHS: Columns = (
    ("memory GiB", "memory_gib", "{:.2f}"),
    ("first step", "first_step", ""),
    ("ready", "ready", ""),
    ("selection", "selection", ""),
    ("epoch", "epoch", ""),
    ("speed-up", "speedup", "{:.2f}x"),
)
IN_MS = frozenset({"step", "augment", "attack", "update"})


def table(rows: Sequence[Mapping[str, Any]], columns: Columns) -> Table:
    """One line a row; "-" for what was not measured."""
    return Table(
        ("", *(title for title, _, _ in columns)),
        tuple((row["name"], *(_cell(row[key], key, form) for _, key, form in columns)) for row in rows),
    )


def _cell(value: float | None, key: str, form: str) -> str:
    if value is None:
        return "-"
    return form.format(1e3 * value if key in IN_MS else value) if form else duration(value)
