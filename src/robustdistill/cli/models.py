"""`robustdistill list models`: how large architectures are, and the keys that their weights are recognised by."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robustdistill.cli.listing import source

if TYPE_CHECKING:
    from robustdistill.registry import Registry


def records(registry: "Registry", pattern: str | None, counted: bool = True) -> list[dict[str, Any]]:
    """A record an architecture whose name fits `pattern`. UserError if none does."""
    from robustdistill import architectures

    return [
        {
            "kind": "model",
            "name": a.name,
            "summary": a.summary,
            "from": source(a.origin),
            "family": a.family,
            "layout": a.layout,
            "parameters": a.parameters,
            "macs": a.macs,
            "counted_for": {"classes": architectures.CLASSES, "image": list(architectures.IMAGE)},
        }
        for a in architectures.find(registry, pattern, counted)
    ]


def show(found: Sequence[dict[str, Any]]) -> None:
    """A table of sizes, and below it the layouts."""
    from robustdistill.cli import render
    from robustdistill.report.tables import Table

    said = {r["name"] for r in found}  # an example stands below its family, which says what it is
    rows = tuple((r["name"], "" if r["family"] in said else _what(r), *map(_short, _sizes(r))) for r in found)
    render.show(Table(("name", "what it is", "parameters", "MACs"), rows, 2))
    layouts = {r["family"] or r["name"]: r["layout"] for r in found if r["layout"]}
    render.say(["counted for 10 classes and one image of 3 x 32 x 32"])
    if any(not r["parameters"] and "{" not in r["name"] for r in found):
        print("not counted: a network that is not for such images, and more than 40 at once")
    if layouts:
        print("\nweights are recognised by their keys:")
        render.show_pairs(list(layouts.items()))


def _sizes(record: dict[str, Any]) -> tuple[float | None, float | None]:
    return record["parameters"], record["macs"]


def _what(record: dict[str, Any]) -> str:
    ours = record["from"].startswith("robustdistill ")
    return str(record["summary"]) + ("" if ours else f" ({record['from']})")


def _short(number: float | None) -> str:
    """12,186 as "12.2 k", 46,160,474 as "46.2 M"."""
    if number is None:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}" if number >= 10 * size else f"{number / size:.2f} {unit}"
    return f"{number:.0f}"
