"""Images before and after an attack."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustdistill.report.contents import Array, Examples, softmax
from robustdistill.report.figures.canvas import INK, ROBUST, new

COLUMNS = 10
ROWS = ("clean", "adversarial", "difference")


def grid(examples: Examples, classes: Sequence[str]) -> Figure:
    """A column per image, at most `COLUMNS`: the image, its adversarial twin, the difference amplified to full range
    around grey. Above each of the first two, what the network says and with which probability, and, where that is
    wrong, what would be right.
    """
    n = min(len(examples.x), COLUMNS)
    figure = new(0.6 + 0.74 * n, 3.6)
    axes = np.asarray(figure.subplots(len(ROWS), n, squeeze=False))
    gain = amplification(examples)
    for i in range(n):
        x, x_adv = examples.x[i].astype(float), examples.x_adv[i].astype(float)
        for row, image in enumerate((x, x_adv, 0.5 + gain * (x_adv - x))):
            _image(axes[row, i], image)
        for row, logits in enumerate((examples.logits, examples.logits_adv)):
            _said(axes[row, i], logits[i], int(examples.y[i]), classes)
    for row, label in enumerate(ROWS):
        label = f"{label}\nx {gain:.3g}" if row == 2 else label
        axes[row, 0].set_ylabel(label, fontsize=8)
    return figure


def amplification(examples: Examples) -> float:
    """The factor that takes the largest change of a pixel to half the range; 1 where nothing changed."""
    largest = float(np.abs(examples.x_adv.astype(float) - examples.x.astype(float)).max(initial=0.0))
    return 0.5 / largest if largest > 0 else 1.0


def _image(axes: Axes, image: Array) -> None:
    shown = np.moveaxis(image, 0, -1) if len(image) == 3 else image.mean(axis=0)
    colours: dict[str, Any] = {} if len(image) == 3 else {"cmap": "gray", "vmin": 0, "vmax": 1}
    axes.imshow(shown.clip(0, 1), interpolation="none", **colours)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="#d0d5dd", linewidth=0.6)


def _said(axes: Axes, logits: Array, label: int, classes: Sequence[str]) -> None:
    probabilities = softmax(logits[None])[0]
    found = int(probabilities.argmax())
    said, share = _name(found, classes), f"{100 * probabilities[found]:.0f} %"
    text = f"{said}\n{share}" + ("" if found == label else f"\nnot {_name(label, classes)}")
    axes.set_title(text, fontsize=7.5, pad=3, color=INK if found == label else ROBUST)


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if label < len(classes) else str(label)
