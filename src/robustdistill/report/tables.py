"""A table of ready-made cells as Markdown, CSV or LaTeX."""

import csv
import io
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Columns and rows of text. The first `words` columns hold words, the others numbers; `bold` names cells as
    (row, column).
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    bold: frozenset[tuple[int, int]] = frozenset()


def highest(cells: Iterable[tuple[Hashable, float, tuple[int, int]]]) -> frozenset[tuple[int, int]]:
    """The places of the highest values: of cells (rivalry, value, place) among two or more of one rivalry."""
    rivals: dict[Hashable, list[tuple[float, tuple[int, int]]]] = {}
    for rivalry, value, place in cells:
        rivals.setdefault(rivalry, []).append((value, place))
    tops = [(max(value for value, _ in several), several) for several in rivals.values() if len(several) > 1]
    return frozenset(place for top, several in tops for value, place in several if value == top)


def markdown(table: Table) -> str:
    """A pipe table, its columns padded to equal width; bold between two asterisks."""
    rows = _written(table, lambda cell: cell.replace("|", r"\|"), "**{}**")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * w if i < table.words else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = [_padded(row, widths, table.words) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:])) + "\n"


def _padded(row: list[str], widths: list[int], words: int) -> list[str]:
    return [c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]


def _written(table: Table, escaped: Callable[[str], str], bold: str) -> list[list[str]]:
    """The heading and the rows in a language, each cell escaped, `bold` (a format) around the bold ones."""

    def cell(i: int, j: int, text: str) -> str:
        return bold.format(escaped(text)) if (i, j) in table.bold else escaped(text)

    body = [[cell(i, j, text) for j, text in enumerate(row)] for i, row in enumerate(table.rows)]
    return [[escaped(name) for name in table.columns], *body]


def comma_separated(table: Table) -> str:
    """CSV (RFC 4180, but lines end in a line feed). "53.08 ± 0.21" becomes two columns, `name` and `name std`."""
    spread = [any(" ± " in row[i] for row in table.rows) for i in range(len(table.columns))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([n for name, two in zip(table.columns, spread, strict=True) for n in _names(name, two)])
    for row in table.rows:
        writer.writerow([v for cell, two in zip(row, spread, strict=True) for v in _values(cell, two)])
    return out.getvalue()


def _names(name: str, two: bool) -> list[str]:
    return [name, f"{name} std"] if two else [name]


def _values(cell: str, two: bool) -> list[str]:
    mean, _, std = ("" if cell == "-" else cell).partition(" ± ")
    return [mean, std] if two else [mean]


def latex(table: Table) -> str:
    """A `tabular` with the rules of the package booktabs, and nothing else that LaTeX itself does not know."""
    columns = "l" * table.words + "r" * (len(table.columns) - table.words)
    head, *body = (" & ".join(row) + r" \\" for row in _written(table, _escaped, r"\textbf{{{}}}"))
    rows = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(rows) + "\n"


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": "$<$",  # LaTeX's default font encoding has other signs in the places of these three
    ">": "$>$",
    "±": r"$\pm$",
}


def _escaped(cell: str) -> str:
    signed = re.sub(r"^-(?=\d)", "$-$", re.sub(r"[\\~^|<>±&%$#_{}]", lambda m: _SPECIAL.get(m[0], "\\" + m[0]), cell))
    return f"{{}}{signed}" if signed.startswith(("[", "*")) else signed  # after \\ these would be its arguments
