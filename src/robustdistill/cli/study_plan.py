"""`study --dry-run`: what a study would run, and what that costs."""

from typing import Any

from robustdistill.cli import progress, render
from robustdistill.cli.study_status import DONE, Looker, summary
from robustdistill.registry import default_registry
from robustdistill.report.numbers import duration
from robustdistill.study.cost import JUDGING, TRAINING, Cost, cost
from robustdistill.study.folder import Folder
from robustdistill.study.items import distinct, items


def show(folder: Folder, *, as_json: bool) -> None:
    """The runs, their axes, and the cost of those that are left."""
    registry, study = default_registry(), folder.study
    looker = Looker(folder, distinct(items(study, registry)))
    records = looker.records()
    left = [item for item, r in zip(looker.items, records, strict=True) if r["state"] != DONE]
    price = cost(left, study.judge, registry)
    if as_json:
        progress.emit({"event": "study", "study": study.called, "runs": records, **facts(price)})
        return
    render.show_pairs(
        [
            ("study", f"{study.called}: {study.title}" if study.title else study.called),
            *([("about", study.about)] if study.about else []),
            *((axis, ", ".join(dict.fromkeys(item.places[axis] for item in looker.items))) for axis in study.axes),
            ("judged", f"{', '.join(study.judge.attacks)}; {study.judge.n or 'all'} test images"),
            ("runs", summary(records)),
            ("left", sentence(price)),
            ("folder", str(folder.path)),
        ]
    )


def facts(price: Cost) -> dict[str, Any]:
    """The cost as JSON values."""
    return {
        "training_flops": price.training,
        "judging_flops": price.judging,
        "unknown": price.unknown,
        "gpu_hours": price.gpu_hours,
    }


def sentence(price: Cost) -> str:
    """The cost of what is left, in operations and in the time of one GPU."""
    pflop = f"{price.training / 1e15:,.3g} PFLOP of training and {price.judging / 1e15:,.3g} of judging at most"
    speed = f"{TRAINING / 1e12:.0f} and {JUDGING / 1e12:.0f} TFLOP/s, about one H100"
    unknown = f"; {price.unknown} runs could not be estimated" if price.unknown else ""
    return f"{pflop}: {duration(3600 * price.gpu_hours)} at {speed}{unknown}"
