"""How fast the runs of a study that are done went, each in the hands of one worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustdistill.errors import DamagedFile
from robustdistill.registry import Registry
from robustdistill.study.cost import Cost, Speed, cost
from robustdistill.study.folder import Folder
from robustdistill.study.items import Item


@dataclass(frozen=True)
class Pace:
    """The `speed` of the `runs` that it was measured by."""

    speed: Speed
    runs: int


def pace(folder: Folder, items: Sequence[Item], registry: Registry) -> Pace | None:
    """What `cost` says of the runs done, over the seconds that they took by their own record; None if none is done.

    A little too fast: nobody notes how long a run judges the test images at its end.
    Whatever machine it was: a study that moves to another one is told at the speed of the old one at first.
    """
    done = [item for item in items if item.spec is not None and folder.done(item)]
    taken = [(item, _seconds(folder, item)) for item in done]
    known = [(item, seconds) for item, seconds in taken if min(seconds) > 0]
    count: Cost = cost([item for item, _ in known], folder.study.judge, registry)
    if not known or not count.training:
        return None
    training, judging = (sum(part) for part in zip(*(seconds for _, seconds in known), strict=True))
    return Pace(Speed(count.training / training, count.judging / judging), len(known))


def _seconds(folder: Folder, item: Item) -> tuple[float, float]:
    """Of training with selection, and of judging; 0 where nothing is on record."""
    try:
        events = folder.run(item).read_events()
    except (DamagedFile, OSError):
        return 0.0, 0.0
    epochs: dict[int, float] = {}
    for event in events:
        if event.get("event") in ("trained", "evaluated"):  # of an epoch that was judged, the second is over all of it
            epochs[event["epoch"]] = event["seconds"]
    wanted = folder.study.judge.attacks
    verdicts: Sequence[Mapping[str, Any]] = folder.judged(item)["verdicts"]
    return sum(epochs.values()), sum(v["seconds"] for v in verdicts if v["attack"] in ("clean", *wanted))
