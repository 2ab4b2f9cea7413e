"""Accuracy over the places of a study's axis."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from robustdistill.report.figures.canvas import OTHERS, new, percent_axis
from robustdistill.report.numbers import Mean

MARKERS = "os^Dv*"


def over_places(
    axis: str, places: Sequence[str], groups: Mapping[str, Mapping[str, Mean]], attack: str, kind: str = "lines"
) -> Figure:
    """Mean accuracy in % at each of `places`, with the standard deviation over seeds as a bar where it is known.

    `groups` holds a line, or a bar beside its neighbours, each: the means by place. `kind` is lines or bars.
    """
    figure = new(max(5.2, 1.2 + 0.9 * len(places) * (1 if kind == "lines" else 1.3)), 4.2)
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
    percent_axis(axes, f"accuracy under {attack}, %" if attack != "clean" else "clean accuracy, %")
    if len(groups) > 1:
        figure.legend(loc="outside upper left", ncols=4)
    return figure
