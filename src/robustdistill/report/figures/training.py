"""What happened while a run trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from robustdistill.report.figures.canvas import CLEAN, GREY, INK, ROBUST, new, percent_axis

Record = Mapping[str, Any]


def training(trained: Sequence[Record], judged: Sequence[Record]) -> Figure:
    """Accuracy of each judged epoch with best and last marked, loss and learning rate of each epoch, from above.

    `trained`, `judged`: the events of these names (see `robustdistill.events`); epochs are shown counted from 1.
    """
    figure = new(7.2, 5.6 if judged else 3.2)
    heights = [3.0, 1.5, 1.0] if judged else [1.5, 1.0]
    panels: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    if judged:
        _accuracies(panels[0], judged)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    loss, rate = panels[-2:]
    epochs = [e["epoch"] + 1 for e in trained]
    for axes, name, label in ((loss, "loss", "training loss"), (rate, "lr", "learning rate")):
        axes.plot(
            epochs, [_number(e[name]) for e in trained], color=INK if name == "loss" else GREY, marker=_dots(epochs)
        )
        axes.set(ylabel=label)
        axes.set_ylim(bottom=0)
    rate.set(xlabel="epoch")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels(panels)
    return figure


def _accuracies(axes: Axes, judged: Sequence[Record]) -> None:
    split, attack = judged[-1]["split"], judged[-1]["attack"]
    epochs = [e["epoch"] + 1 for e in judged]
    for name, label, colour in (("clean", "clean", CLEAN), ("robust", attack, ROBUST)):
        axes.plot(epochs, [100 * e[name] for e in judged], color=colour, marker=_dots(epochs), label=label)
    best = next((e for e in reversed(judged) if e.get("best")), None)
    marks = [("last epoch", "s", judged[-1]), *([("best epoch", "*", best)] if best else [])]
    for label, shape, e in marks:
        size = 15 if shape == "*" else 8
        style: dict[str, Any] = {"marker": shape, "markersize": size, "markeredgecolor": "white", "linestyle": "none"}
        axes.plot([e["epoch"] + 1], [100 * e["clean"]], color=CLEAN, zorder=4, **style)
        axes.plot([e["epoch"] + 1], [100 * e["robust"]], color=ROBUST, zorder=4, **style)
        axes.plot([], [], color=GREY, label=label, **style)
    percent_axis(axes, f"accuracy on {split}, %")


def _dots(epochs: Sequence[int]) -> str:
    """A dot an epoch while they can be told apart; a run of one epoch has no line."""
    return "." if len(epochs) <= 40 else ""


def _number(value: float | None) -> float:
    """Where a loss was not finite the log holds null, and the line has a gap."""
    return float("nan") if value is None else value
