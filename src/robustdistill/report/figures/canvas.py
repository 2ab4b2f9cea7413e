"""The look of all figures, and figures as SVG and PNG: the same data give the same bytes."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

CLEAN, ROBUST, TEACHER, GREY, INK = "#1f5fa8", "#b8480b", "#0a7057", "#667085", "#1d2433"
OTHERS = (ROBUST, CLEAN, TEACHER, "#8a3ffc", "#8a6d00", GREY)

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: small, sharp, in the page's own font
    "svg.hashsalt": "robustdistill",
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#98a2b3",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "grid.color": "#e4e7ec",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def _styled() -> Iterator[None]:
    with matplotlib.rc_context(cast(Any, STYLE)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)  # only measured here; the reader's fonts have it
        yield


def new(width: float, height: float) -> Figure:
    """An empty figure, in inches, that no global state knows."""
    return Figure(figsize=(width, height), layout="constrained")


def percent_axis(axes: Axes, label: str, *, along: str = "y") -> None:
    """Accuracies from 0 to 100 % along an axis."""
    if along == "y":
        axes.set(ylim=(0, 102), ylabel=label, yticks=range(0, 101, 20))
    else:
        axes.set(xlim=(0, 102), xlabel=label, xticks=range(0, 101, 20))


def svg(draw: Callable[[], Figure], name: str, title: str) -> str:
    """The figure as an <svg> element for a page: titled, as wide as there is room, its ids under its own `name`."""
    text = standalone(draw)
    body = text[text.index("<svg") :]
    body = re.sub(r"<style.*?</style>", "", body, count=1, flags=re.DOTALL)  # it would speak for the whole page
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    head, rest = body.split(">", 1)
    head = re.sub(r' (width|height)="[\d.]+pt"', "", head)
    return f'{head} role="img" aria-labelledby="{name}-title"><title id="{name}-title">{_escaped(title)}</title>{rest}'


def standalone(draw: Callable[[], Figure]) -> str:
    """The figure as an SVG file."""
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    out = io.StringIO()
    with _styled():
        draw().savefig(out, format="svg", metadata=unsaid)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def png(draw: Callable[[], Figure]) -> bytes:
    """The figure as a PNG file of 200 dots an inch."""
    out = io.BytesIO()
    with _styled():
        draw().savefig(out, format="png", dpi=200, metadata={"Software": None})
    return out.getvalue()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
