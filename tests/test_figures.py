"""A report's figures: that they show the numbers they are given, and that the same numbers give the same bytes."""

import io
import math
import re
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from robustdistill.report.contents import Examples, Point, softmax
from robustdistill.report.figures import canvas
from robustdistill.report.figures.classes import SHOWN, per_class
from robustdistill.report.figures.curves import against_eps, against_steps
from robustdistill.report.figures.images import amplification, grid
from robustdistill.report.figures.places import LEAST, over_places
from robustdistill.report.figures.scatter import scatter
from robustdistill.report.figures.training import training
from robustdistill.report.figures.waterfall import waterfall
from robustdistill.report.numbers import Mean

TRAINED = [{"epoch": i, "loss": loss, "lr": 0.1} for i, loss in enumerate((2.0, None, 1.0))]
JUDGED = [
    {"epoch": e, "split": "holdout", "attack": "pgd", "clean": c, "robust": r, "best": best}
    for e, c, r, best in ((0, 0.5, 0.2, True), (1, 0.7, 0.4, True), (2, 0.9, 0.3, False))
]
POINTS = [Point("sat", 0.8, 0.4, "other"), Point("big", 0.9, 0.6, "teacher"), Point("this", 0.85, 0.5, "best")]
CURVE = [
    {"curve": "eps", "attack": "pgd", "eps": e, "steps": s, "accuracy": a, "n": 10, "interval95": [a - 0.1, a + 0.1]}
    for e, s, a in ((0.2, 10, 0.3), (0.1, 1, 0.6))
]


GROUPS = {
    "sat": {"0": Mean(0.5, 0.01, 3), "1": Mean(0.52, None, 1)},
    "mmard": {"1": Mean(0.51, 0.02, 3)},
}


def examples(channels: int = 1, k: int = 3) -> Examples:
    x = np.full((k, channels, 4, 4), 0.5, np.float32)
    moved = x.copy()
    moved[:, :, 0, 0], moved[:, :, 1, 1] = 0.6, 0.45
    logits = np.tile(np.array([0.0, 3.0], np.float32), (k, 1))
    return Examples(x, moved, np.ones(k, np.int64), logits, logits[:, ::-1])


ALL: dict[str, Callable[[], Figure]] = {
    "training": lambda: training(TRAINED, JUDGED),
    "only losses": lambda: training(TRAINED, []),
    "scatter": lambda: scatter(POINTS, "pgd"),
    "eps": lambda: against_eps(CURVE, 0.2, 10),
    "steps": lambda: against_steps(CURVE),
    "classes": lambda: per_class(["a", "b"], [1.0, 0.5], [0.25, 0.0], "cw"),
    "waterfall": lambda: waterfall([("clean", 0.9), ("apgd-ce", 0.5), ("square", 0.5)]),
    "lines": lambda: over_places("alpha", ["0", "1"], GROUPS, "pgd"),
    "bars": lambda: over_places("alpha", ["0", "1"], GROUPS, "clean", "bars"),
    "grid": lambda: grid(examples(3), ["cat", "dog"]),
}


@pytest.mark.parametrize("draw", ALL.values(), ids=ALL)
def test_the_same_data_give_the_same_bytes(draw: Callable[[], Figure]) -> None:
    assert canvas.svg(draw, "f", "t") == canvas.svg(draw, "f", "t")
    assert canvas.standalone(draw) == canvas.standalone(draw)
    first, second = canvas.png(draw), canvas.png(draw)
    assert first == second
    with Image.open(io.BytesIO(first)) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 10  # not an empty sheet


def test_an_inlined_figure_speaks_for_itself_alone() -> None:
    before = dict(matplotlib.rcParams)
    text = canvas.svg(ALL["training"], "training", 'a <b> & "c"')
    assert dict(matplotlib.rcParams) == before
    assert text.startswith("<svg ")
    assert '<title id="training-title">a &lt;b&gt; &amp; "c"</title>' in text
    assert not re.search(r"<style|<metadata|<\?xml|<svg[^>]* (width|height)=|\d{4}-\d\d-\d\d", text)
    assert re.findall(r'\bid="(?!training-)', text) == []
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    assert used
    assert all(f'id="{a or b}"' in text for a, b in used)


def test_names_are_no_formulas() -> None:
    names = ["$\\alpha_{", "<b>", "日本"]
    text = canvas.svg(lambda: per_class(names, [1.0] * 3, [0.5] * 3, "a$b"), "f", "t")
    assert all(shown in text for shown in ("$\\alpha_{", "&lt;b&gt;", "日本", "a$b"))


def values(line: Any) -> list[list[float]]:
    return [list(map(float, axis)) for axis in line.get_data()]


def test_training_shows_every_epoch_and_marks_best_and_last() -> None:
    accuracies, loss, rate = training(TRAINED, JUDGED).axes
    clean, robust, *marks = accuracies.lines
    assert values(clean) == [[1, 2, 3], [50, 70, 90]]
    assert values(robust) == [[1, 2, 3], [20, 40, 30]]
    placed = {(line.get_marker(), *(v[0] for v in values(line))) for line in marks if len(line.get_xdata())}
    assert placed == {("s", 3, 90), ("s", 3, 30), ("*", 2, 70), ("*", 2, 40)}
    x, y = values(loss.lines[0])
    assert (x, y[0], math.isnan(y[1]), y[2]) == ([1, 2, 3], 2.0, True, 1.0)
    assert values(rate.lines[0])[1] == [0.1] * 3


def test_the_scatter_has_each_network_where_it_belongs() -> None:
    (axes,) = scatter(POINTS, "pgd").axes
    assert [[tuple(p) for p in c.get_offsets()] for c in axes.collections] == [[(80, 40)], [(90, 60)], [(85, 50)]]
    assert [t.get_text() for t in axes.texts] == ["sat", "big"]
    (many,) = scatter([Point(str(i), 0.5, i / 100, "other") for i in range(40)], "pgd").axes
    assert not many.texts


def test_curves_are_sorted_and_have_their_intervals() -> None:
    (axes,) = against_eps(CURVE, 0.2, 10).axes
    assert values(axes.lines[0]) == [[0.1, 0.2], [60, 30]]
    assert axes.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(70)
    assert [t.get_text() for t in axes.texts] == ["training: 0.2", "chance"]
    (steps,) = against_steps([*CURVE, CURVE[0] | {"steps": 0}]).axes
    assert values(steps.lines[0]) == [[1, 10], [60, 30]]
    assert [t.get_text() for t in steps.get_xticklabels()] == ["1", "10"]


def test_bars_of_classes() -> None:
    (axes,) = per_class(["a", "b", "c"], [1.0, None, 0.5], [0.25, None, 0.0], "cw").axes
    assert [bar.get_width() for bar in axes.patches] == [100, 50, 25, 0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "c"]
    n = 2 * SHOWN
    (many,) = per_class([str(i) for i in range(n)], [1.0] * n, [i / n for i in reversed(range(n))], "cw").axes
    assert [t.get_text() for t in many.get_yticklabels()] == [str(i) for i in range(n - 1, n - 1 - SHOWN, -1)]


def test_the_waterfall_tells_what_each_stage_broke() -> None:
    (axes,) = waterfall([("clean", 0.9), ("apgd-ce", 0.5), ("square", 0.5)]).axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([90, 50, 50, 0, 40, 0])
    assert [t.get_text() for t in axes.texts] == ["90.0", "50.0  (-40.0)", "50.0"]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_grid_shows_image_twin_and_difference(channels: int) -> None:
    made = examples(channels)
    axes = np.array(grid(made, ["cat", "dog"]).axes).reshape(3, 3)
    assert amplification(made) == pytest.approx(5)
    shown = [np.asarray(a.images[0].get_array()) for a in axes[:, 0]]
    assert [float(image[0, 0].mean()) for image in shown] == pytest.approx([0.5, 0.6, 1.0])
    assert float(shown[2][1, 1].mean()) == pytest.approx(0.25)
    assert [a.get_title() for a in axes[:, 0]] == ["dog\n95 %", "cat\n95 %\nnot dog", ""]


def test_nothing_changed_is_not_amplified() -> None:
    made = examples()
    assert amplification(Examples(made.x, made.x, made.y, made.logits, made.logits)) == 1


def test_softmax_of_large_logits() -> None:
    assert softmax(np.array([[1000.0, 1000.0 + math.log(3)]])) == pytest.approx(np.array([[0.25, 0.75]]))


def test_lines_and_bars_stand_at_their_places() -> None:
    (axes,) = over_places("alpha", ["0", "1"], GROUPS, "pgd").axes
    lines = {c.get_label(): c.lines[0].get_xydata().tolist() for c in axes.containers}
    assert lines == {"sat": [[0, 50], [1, 52]], "mmard": [[1, 51]]}
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "1"]
    low, high = axes.get_ylim()
    assert high - low >= LEAST, "a difference of two points must not look like a precipice"
    (axes,) = over_places("alpha", ["0", "1"], GROUPS, "clean", "bars").axes
    heights = [[bar.get_height() for bar in c] for c in axes.containers if hasattr(c, "patches")]
    assert heights == [[50, 52], [51]]
    assert axes.get_ylim()[0] == 0
    left, right = (c.patches[0] for c in axes.containers if hasattr(c, "patches"))
    assert left.get_x() + left.get_width() <= right.get_x() + 1 - 1e-9
