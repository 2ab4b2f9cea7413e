"""A table of ready-made cells as Markdown, CSV or LaTeX."""

import csv
import io
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Columns and rows of text. The first `words` columns hold words, the others numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def markdown(table: Table) -> str:
    """A pipe table, its columns padded to equal width."""
    rows = [[cell.replace("|", r"\|") for cell in row] for row in (table.columns, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * w if i < table.words else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = [_padded(row, widths, table.words) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:])) + "\n"


def _padded(row: list[str], widths: list[int], words: int) -> list[str]:
    return [c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]


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
    """A `tabular` with the rules of the package booktabs."""
    columns = "l" * table.words + "r" * (len(table.columns) - table.words)
    head, *body = (" & ".join(map(_escaped, row)) + r" \\" for row in (table.columns, *table.rows))
    rows = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(rows) + "\n"


_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}


def _escaped(cell: str) -> str:
    return re.sub(r"[\\~^±&%$#_{}]", lambda found: _SPECIAL.get(found[0], "\\" + found[0]), cell)
