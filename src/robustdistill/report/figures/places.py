"""Accuracy over the places of a study's axis."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from robustdistill.report.figures.canvas import OTHERS, new
from robustdistill.report.numbers import Mean

MARKERS = "os^Dv*"
LEAST = 10.0  # points that the axis of lines spans at least


def over_places(
    axis: str, places: Sequence[str], groups: Mapping[str, Mapping[str, Mean]], attack: str, kind: str = "lines"
) -> Figure:
    """Mean accuracy in % at each of `places`, with the standard deviation over seeds as a bar where it is known.

    `groups` holds a line, or a bar beside its neighbours, each: the means by place. `kind` is lines or bars.
    """
    figure = new(max(7.2, 1.2 + 0.9 * len(places) * (1 if kind == "lines" else 1.3)), 4.2)
    axes = figure.subplots()
    for i, (name, means) in enumerate(groups.items()):
        at = [j for j, place in enumerate(places) if place in means]
        values = [100 * means[places[j]].mean for j in at]
        spread = [100 * (means[places[j]].std or 0.0) for j in at]
        how: dict[str, Any] = {"color": OTHERS[i % len(OTHERS)], "label": name}
        if kind == "bars":
            width = 0.8 / len(groups)
            axes.bar([j - 0.4 + width * (i + 0.5) for j in at], values, width, yerr=spread, capsize=3, **how)
        else:
            axes.errorbar(at, values, yerr=spread, marker=MARKERS[i % len(MARKERS)], capsize=3, **how)
    axes.set_xticks(range(len(places)), places)
    axes.set_xlabel(axis)
    axes.set_ylabel("clean accuracy, %" if attack == "clean" else f"accuracy under {attack}, %")
    low, high = axes.get_ylim()
    if kind == "bars":
        axes.set_ylim(0, min(102, high))
    elif (more := LEAST - (high - low)) > 0:  # a difference of a point must not look like a precipice
        axes.set_ylim(low - more / 2, high + more / 2)
    if len(groups) > 1:
        figure.legend(loc="outside upper left", ncols=4)
    return figure
