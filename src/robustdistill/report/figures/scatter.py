"""Networks by what they can do without and under attack."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from robustdistill.report.contents import Point
from robustdistill.report.figures.canvas import GREY, ROBUST, TEACHER, new

STYLES = {  # kind -> colour, marker, size, and what the legend says
    "other": ("#98a2b3", "o", 45, "other runs in this folder"),
    "teacher": (TEACHER, "D", 70, "teacher"),
    "last": (ROBUST, "s", 60, "this run, last epoch"),
    "best": (ROBUST, "*", 220, "this run, best epoch"),
}
NAMED = 12


def scatter(points: Sequence[Point], attack: str) -> Figure:
    """Clean against robust accuracy in %; other runs carry their names while there are few of them."""
    figure = new(7.2, 4.6)
    axes = figure.subplots()
    for kind, (colour, shape, size, label) in STYLES.items():
        these = [p for p in points if p.kind == kind]
        if these:
            x, y = [100 * p.clean for p in these], [100 * p.robust for p in these]
            axes.scatter(x, y, s=size, c=colour, marker=shape, label=label, edgecolors="white", zorder=3)
    others = [p for p in points if p.kind == "other"]
    for p in [*(others if len(others) <= NAMED else ()), *(p for p in points if p.kind == "teacher")]:
        colour = GREY if p.kind == "other" else TEACHER
        place = (100 * p.clean, 100 * p.robust)
        axes.annotate(p.name, place, (0, 7), textcoords="offset points", ha="center", fontsize=8, color=colour)
    axes.margins(0.14)
    axes.set_xlim(left=max(axes.get_xlim()[0], -3))
    axes.set_ylim(bottom=max(axes.get_ylim()[0], -3))
    axes.set(xlabel="clean accuracy, %", ylabel=f"accuracy under {attack}, %")
    figure.legend(loc="outside upper left", ncols=2)
    return figure
