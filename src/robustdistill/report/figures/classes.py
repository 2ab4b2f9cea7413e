"""Who pays: accuracy class by class."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from robustdistill.report.figures.canvas import CLEAN, ROBUST, new, percent_axis

SHOWN = 25
Accuracies = Sequence[float | None]


def per_class(names: Sequence[str], clean: Accuracies, robust: Accuracies, attack: str) -> Figure:
    """Bars of clean accuracy and of accuracy under `attack`; of many classes the `SHOWN` lowest under attack.

    A class without an image has None and no bar.
    """
    rows = [(n, c, r) for n, c, r in zip(names, clean, robust, strict=True) if c is not None and r is not None]
    if len(rows) > SHOWN:
        rows = sorted(rows, key=lambda row: row[2])[:SHOWN]
    figure = new(7.2, 1.1 + 0.34 * len(rows))
    axes = figure.subplots()
    places = range(len(rows))
    for shift, which, label, colour in ((-0.19, 1, "clean", CLEAN), (0.19, 2, attack, ROBUST)):
        widths = [100 * float(row[which] or 0) for row in rows]
        axes.barh([p + shift for p in places], widths, height=0.36, color=colour, label=label)
    axes.set_yticks(places, [row[0] for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    percent_axis(axes, "accuracy, %", along="x")
    figure.legend(loc="outside upper left", ncols=2)
    return figure
