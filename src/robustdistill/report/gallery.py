"""Which figures a run has the data for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from robustdistill.report.contents import Contents
from robustdistill.report.figures.classes import SHOWN, per_class
from robustdistill.report.figures.curves import against_eps, against_steps
from robustdistill.report.figures.images import grid
from robustdistill.report.figures.scatter import NAMED, scatter
from robustdistill.report.figures.training import training
from robustdistill.report.figures.waterfall import waterfall
from robustdistill.report.numbers import percent


@dataclass(frozen=True)
class Picture:
    """A figure to be drawn: `name` is its file's, `title` its heading, `told` what it shows in words and numbers."""

    name: str
    title: str
    told: str
    draw: Callable[[], Figure]


def pictures(c: Contents) -> list[Picture]:
    """The figures of a report in its order, those without data left out."""
    parts = (_training, _scatter, _curves, _classes, _waterfall, _examples)
    return [picture for part in parts for picture in part(c)]


def _training(c: Contents) -> Iterator[Picture]:
    trained = [e for e in c.events if e["event"] == "trained"]
    judged = [e for e in c.events if e["event"] == "evaluated"]
    if not trained:
        return
    told = f"Loss and learning rate of {len(trained)} epochs."
    if judged:
        last = judged[-1]
        told += (
            f" On {last['split']} images, the last judged epoch, {last['epoch'] + 1}, has {percent(last['clean'])} % "
            f"clean and {percent(last['robust'])} % under {last['attack']}."
        )
        best = next((e for e in reversed(judged) if e.get("best")), last)
        told += f" The best is epoch {best['epoch'] + 1} with {percent(best['robust'])} % under {best['attack']}."
    yield Picture("training", "Training", told, lambda: training(trained, judged))


def _scatter(c: Contents) -> Iterator[Picture]:
    if len(c.points) > 1:
        others = [p for p in c.points if p.kind == "other"]
        named = c.points if len(others) <= NAMED else [p for p in c.points if p.kind != "other"]
        told = "; ".join(f"{p.name} {percent(p.clean, 1)} and {percent(p.robust, 1)}" for p in named)
        title = "Clean against robust accuracy"
        yield Picture("scatter", title, f"Test images, in %: {told}.", lambda: scatter(c.points, c.select))


def _curves(c: Contents) -> Iterator[Picture]:
    curves = c.judged.get("curves", ())
    radii, steps = ([p for p in curves if p["curve"] == kind] for kind in ("eps", "steps"))
    if radii:
        told = ", ".join(f"{percent(p['accuracy'], 1)} at {p['eps']:.3g}" for p in radii)
        told = f"A sound attack brings every network to chance as its radius grows. In %: {told}."
        yield Picture("eps", "Accuracy and radius", told, lambda: against_eps(radii, c.eps, len(c.classes)))
    if steps:
        told = ", ".join(f"{percent(p['accuracy'], 1)} after {p['steps']}" for p in steps)
        told = f"A curve that still falls at its right end says that the attack was stopped too early. In %: {told}."
        yield Picture("steps", "Accuracy and steps", told, lambda: against_steps(steps))


def _classes(c: Contents) -> Iterator[Picture]:
    clean, hardest = c.verdict("clean"), c.hardest
    if clean is None or hardest is None or len(clean.get("per_class", ())) != len(hardest.get("per_class", ())):
        return
    names = [c.classes[i] if i < len(c.classes) else str(i) for i in range(len(clean["per_class"]))]
    known = [(r, n) for n, r in zip(names, hardest["per_class"], strict=True) if r is not None]
    if not known:
        return
    (low, worst), (high, best) = min(known), max(known)
    some = f" The {SHOWN} lowest of {len(known)} classes are shown." if len(known) > SHOWN else ""
    under = "all attacks" if hardest["attack"] == "worst" else hardest["attack"]
    told = f"Under {under}: class {worst} has {percent(low, 1)} %, class {best} has {percent(high, 1)} %.{some}"
    bars = (names, clean["per_class"], hardest["per_class"], under)
    yield Picture("classes", "Accuracy by class", told, lambda: per_class(*bars))


def _waterfall(c: Contents) -> Iterator[Picture]:
    clean = c.verdict("clean")
    for i, v in enumerate(v for v in c.verdicts if v.get("stages")):
        stages = [(s["name"], s["accuracy"]) for s in v["stages"]]
        if clean is not None and stages[0][0] != "clean":
            stages = [("clean", clean["accuracy"]), *stages]
        told = f"Each attack runs on the images still standing; what it broke is pale. In %: {_list(stages)}."
        name = f"waterfall-{i + 1}" if i else "waterfall"
        yield Picture(name, f"{v['attack']}, stage by stage", told, _drawn(stages))


def _drawn(stages: list[tuple[str, float]]) -> Callable[[], Figure]:
    return lambda: waterfall(stages)


def _list(stages: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {percent(accuracy, 1)}" for name, accuracy in stages)


def _examples(c: Contents) -> Iterator[Picture]:
    examples = c.examples
    if examples is not None and len(examples.x):
        told = "The difference is amplified around grey. Above an image: what the network says, and how sure it is."
        yield Picture("examples", "Images before and after the attack", told, lambda: grid(examples, c.classes))
