"""What each attack of an ensemble still breaks."""

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.figure import Figure

from robustdistill.report.figures.canvas import CLEAN, INK, ROBUST, new, percent_axis


def waterfall(stages: Sequence[tuple[str, float]]) -> Figure:
    """Accuracy in [0, 1] after each stage in turn, the first being without attack; what a stage broke is pale."""
    figure = new(7.2, 3.6)
    axes = figure.subplots()
    left = [100 * accuracy for _, accuracy in stages]
    lost = [0.0, *(before - after for before, after in pairwise(left))]
    axes.bar(range(len(left)), left, 0.6, color=[CLEAN, *[ROBUST] * (len(left) - 1)])
    axes.bar(range(len(left)), lost, 0.6, bottom=left, color="#f7d9c8")
    for i, (rest, gone) in enumerate(zip(left, lost, strict=True)):
        text = f"{rest:.1f}" + (f"  (-{gone:.1f})" if round(gone, 1) else "")
        axes.annotate(text, (i, rest + gone), (0, 3), textcoords="offset points", ha="center", fontsize=9, color=INK)
    axes.set_xticks(range(len(stages)), [name for name, _ in stages])
    axes.grid(visible=False, axis="x")
    percent_axis(axes, "accuracy left, %")
    axes.set_ylim(0, max(left) + 12)
    return figure
