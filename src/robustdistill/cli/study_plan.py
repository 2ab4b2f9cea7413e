"""`study --dry-run`: what a study would run, and what that costs."""

from typing import Any

from robustdistill.cli import progress, render
from robustdistill.cli.study_status import DONE, Looker, summary
from robustdistill.registry import default_registry
from robustdistill.report.numbers import duration
from robustdistill.study.cost import Cost, cost
from robustdistill.study.crew import cores, visible_gpus
from robustdistill.study.folder import Folder
from robustdistill.study.items import distinct, items
from robustdistill.study.pace import Pace, pace

DAYS = 48 * 3600


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
            ("left", sentence(price, pace(folder, looker.items, registry), gpu=bool(visible_gpus(left)))),
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
        "core_hours": price.core_seconds / 3600,
    }


def sentence(price: Cost, before: Pace | None, *, gpu: bool) -> str:
    """The cost of what is left, in operations and in time: on an H100, and at the pace of the runs that are done or,
    before there are any and where there is no GPU, on this machine's cores.
    """
    count = f"{operations(price.training)} of training and at most {operations(price.judging)} of judging"
    times = [f"about {_long(3600 * price.gpu_hours)} on an H100"]
    if before is not None:
        speed = (
            f"the pace of the {before.runs} that are done" if before.runs > 1 else "the pace of the one that is done"
        )
        times.append(f"{_long(price.seconds(before.speed))} for one worker at {speed}")
    elif not gpu:
        times.append(f"{_long(price.core_seconds)} on one core of a CPU, of which there are {cores()} here")
    unknown = f"; {price.unknown} runs could not be estimated" if price.unknown else ""
    return f"{count}: {', '.join(times)}{unknown}"


def operations(count: float) -> str:
    """A number of operations with its unit."""
    return f"{count / 1e15:,.3g} PFLOP" if count >= 1e14 else f"{count / 1e12:,.3g} TFLOP"


def _long(seconds: float) -> str:
    return duration(seconds) if seconds < DAYS else f"{seconds / 3600:,.0f} h"
