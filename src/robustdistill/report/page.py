"""A run as one HTML page that needs nothing else: figures, style and all are inside it."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from robustdistill.report import words
from robustdistill.report.contents import Contents
from robustdistill.report.figures import canvas
from robustdistill.report.gallery import pictures
from robustdistill.report.numbers import interval, percent

FORMATS = ("svg", "png")


def page(c: Contents) -> str:
    """The report as HTML. Every name in it is escaped, and the page forbids itself scripts and the network."""
    return template("page.html.jinja").render(
        c=c,
        verdict=words.verdict(c),
        alarms=words.alarms(c),
        missing=words.missing(c),
        rows=list(_rows(c)),
        figures=[(p, canvas.svg(p.draw, p.name, f"{p.title}. {p.told}")) for p in pictures(c)],
        environment=list(_flat(c.environment)),
    )


def figure_files(c: Contents, form: str) -> Iterator[tuple[str, bytes]]:
    """The name and content of a file for each figure; `form` is one of `FORMATS`."""
    for p in pictures(c):
        yield f"{p.name}.{form}", canvas.png(p.draw) if form == "png" else canvas.standalone(p.draw).encode()


@cache
def template(name: str) -> Template:
    """One of the page templates of this folder; what it is given is escaped."""
    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.get_template(name)


def _rows(c: Contents) -> Iterator[dict[str, str]]:
    """A row a verdict: what the attack was, and what it left."""
    for v in c.verdicts:
        about, params = c.about.get(v["attack"]), v.get("params", {})
        over = f"right under all of {', '.join(params['over'])}" if "over" in params else ""
        yield {
            "attack": v["attack"],
            "what": about.summary if about else over,
            "loss": (about.loss if about else "") or ("its own" if params and not over else ""),
            **{key: str(params.get(key, "")) for key in ("start", "step", "steps")},
            "accuracy": percent(v["accuracy"]),
            "interval": interval(v["interval95"]),
            "worst": _worst_class(c, v),
        }


def _worst_class(c: Contents, verdict: Mapping[str, Any]) -> str:
    known = [(a, i) for i, a in enumerate(verdict.get("per_class", ())) if a is not None]
    if not known:
        return ""
    accuracy, i = min(known)
    return f"{percent(accuracy, 1)} ({c.classes[i] if i < len(c.classes) else i})"


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested records as dotted names and texts."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value not in (None, "", []):
            yield prefix + key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
