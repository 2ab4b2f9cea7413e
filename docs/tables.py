"""Tables of published numbers, made from the flat records in results/: a number without a file cannot appear."""

import functools
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustdistill.evaluation.verdict import wilson
from robustdistill.report.numbers import Mean, interval, percent, radius, spread
from robustdistill.report.tables import Table, markdown

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
TABLES: dict[str, Any] = tomllib.loads((HERE / "tables.toml").read_text(encoding="utf-8"))


@functools.cache
def records(name: str) -> list[dict[str, Any]]:
    """The records of a folder of results/, in the order of their rows."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (RESULTS / name).glob("*.json")]
    return sorted(found, key=lambda record: int(record["row"]))


def made(name: str) -> str:
    """A table of tables.toml as Markdown."""
    return markdown(table(name))


def table(name: str) -> Table:
    """A table of tables.toml; its first columns are words as far as no number comes."""
    told = TABLES[name]
    told = {**TABLES[told["like"]], **told} if "like" in told else told
    columns = [tuple(column) for column in told["columns"]]
    found = [record for folder in folders(told) for record in records(folder)]
    if rows := told.get("rows"):
        by_name = {record[columns[0][1]]: record for record in found}
        found = [by_name[row] for row in rows]
    cells = tuple(tuple(cell(record, key) for _, key in columns) for record in found)
    words = next((i for i, (_, key) in enumerate(columns) if number(key, found)), len(columns))
    return Table(tuple(heading for heading, _ in columns), cells, words)


def folders(told: Mapping[str, Any]) -> list[str]:
    """The folders of results/ that a table is `of`, one or a list."""
    return told["of"] if isinstance(told["of"], list) else [told["of"]]


def number(key: str, found: list[dict[str, Any]]) -> bool:
    """Whether a column holds numbers."""
    return "%" in key or any(isinstance(record.get(key), int | float) for record in found)


def cell(record: Mapping[str, Any], key: str) -> str:
    """What a record says under a key, as the table writes it; nothing where it says nothing."""
    name, sign, how = key.partition("%")
    value = record.get(name)
    if value is None:
        return ""
    if how == "95":
        return f"{percent(value)} ({interval(wilson(value, record['n']))})"
    if sign:
        return accuracy(value, record.get(f"{name}.std"), how)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return radius(value) if name == "eps" else f"{value:,}" if isinstance(value, int) else str(value)


def accuracy(value: float, std: float | None, how: str) -> str:
    """A fraction in %, with its standard deviation; `how`: digits behind the point, or + for a difference."""
    sign = "+" if "+" in how and value > 0 else ""
    return sign + spread(Mean(value, std, 1), int(how.strip("+") or 2))
