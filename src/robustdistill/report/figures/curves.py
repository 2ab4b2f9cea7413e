"""Accuracy as an attack grows: its radius, its steps."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustdistill.report.figures.canvas import GREY, OTHERS, new, percent_axis

Record = Mapping[str, Any]


def against_eps(points: Sequence[Record], eps: float, classes: int) -> Figure:
    """Accuracy against the radius, with 95 % intervals; `eps` is the run's own, chance is 1 / `classes`."""
    figure = new(7.2, 3.8)
    axes = figure.subplots()
    _lines(axes, points, "eps")
    axes.axvline(eps, color=GREY, linestyle=":", linewidth=1.2)
    axes.annotate(f"training: {eps:.4g}", (eps, 97), (5, 0), textcoords="offset points", fontsize=8, color=GREY)
    if classes:
        axes.axhline(100 / classes, color=GREY, linestyle="--", linewidth=1)
        right = max(p["eps"] for p in points)
        axes.annotate("chance", (right, 100 / classes), (0, 4), textcoords="offset points", ha="right", fontsize=8)
    axes.set(xlabel="L-inf radius of the attack, pixels in [0, 1]")
    return _finished(figure, axes)


def against_steps(points: Sequence[Record]) -> Figure:
    """Accuracy against the number of steps, on a logarithmic axis, with 95 % intervals."""
    figure = new(7.2, 3.8)
    axes = figure.subplots()
    points = [p for p in points if p["steps"] > 0]
    _lines(axes, points, "steps")
    steps = sorted({p["steps"] for p in points})
    axes.set_xscale("log")
    axes.set_xticks(steps, [str(s) for s in steps])
    axes.minorticks_off()
    axes.set(xlabel="steps of the attack")
    return _finished(figure, axes)


def _lines(axes: Axes, points: Sequence[Record], along: str) -> None:
    for name, colour in zip(dict.fromkeys(p["attack"] for p in points), cycle(OTHERS), strict=False):
        these = sorted((p for p in points if p["attack"] == name), key=lambda p: p[along])
        x = [p[along] for p in these]
        low, high = ([100 * p["interval95"][end] for p in these] for end in (0, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, [100 * p["accuracy"] for p in these], color=colour, marker="o", markersize=4, label=name)


def _finished(figure: Figure, axes: Axes) -> Figure:
    percent_axis(axes, "accuracy, %")
    figure.legend(loc="outside upper left", ncols=4)
    return figure
