"""The README's picture: accuracy against the radius, for the students of `make digits` and their teacher.

    python docs/figures.py runs/digits

Reads run directories, writes docs/digits-radius.svg. The mean over the seeds' best epochs; the band is one
standard deviation.
"""

import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "robustdistill"
import matplotlib.pyplot as plt  # noqa: E402

import robustdistill as rd  # noqa: E402

RADII = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
COLOURS = {"nature": "#888888", "sat": "#e69f00", "rslad": "#56b4e9", "mmard": "#d55e00", "teacher": "#009e73"}
ATTACK = "pgd-trades"


def accuracy(target: str | Path, eps: float) -> float:
    """Percent of the test images that stay right under PGD_T at radius `eps`."""
    return 100 * next(v for v in rd.evaluate(target, attacks=[ATTACK], eps=eps, seed=0) if v.attack == ATTACK).accuracy


def draw(axes: plt.Axes, name: str, targets: list[str | Path]) -> None:
    curves = [[accuracy(target, eps) for target in targets] for eps in RADII]
    means = [statistics.mean(c) for c in curves]
    key = name.partition("@")[0]
    style = "--" if key == "teacher" else "-"
    axes.plot(RADII, means, style, color=COLOURS.get(key), label=name, linewidth=2)
    if len(targets) > 1:
        spread = [statistics.stdev(c) for c in curves]
        low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(RADII, low, high, color=COLOURS.get(key), alpha=0.2, linewidth=0)


def main(root: Path, out: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4))
    for folder in ("mmard@literal", "rslad@textbook", "sat", "nature"):
        draw(axes, folder.partition("@")[0], sorted((root / folder).glob("s?")))
    draw(axes, "teacher", ["digits-robust"])
    axes.axvline(0.2, color="black", linewidth=0.8, linestyle=":")
    axes.annotate("radius of the training", (0.205, 3), fontsize=9)
    axes.set(xlabel="L-inf radius of the attack (pixels in [0, 1])", ylabel="accuracy under PGD_T, %", ylim=(0, 101))
    axes.set_xlim(0, max(RADII))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent / "digits-radius.svg")
