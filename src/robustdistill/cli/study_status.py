"""Where the runs of a study stand, as a table that may keep up with them."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from robustdistill.cli import progress, render
from robustdistill.errors import RobustDistillError
from robustdistill.registry import default_registry
from robustdistill.report.numbers import percent
from robustdistill.report.tables import Table
from robustdistill.store import rundir
from robustdistill.store.lease import Holder, Watcher
from robustdistill.study import folder as folders
from robustdistill.study.folder import Folder
from robustdistill.study.items import Item, distinct, items

STATES = DONE, RUNNING, STOPPED, FAILED, WAITING = ("done", "running", "stopped", "failed", "waiting")
LOOK = 2.0  # seconds between two looks
SHOWN = 12  # runs that a moving table shows


@dataclass
class Looker:
    """Looks at a study's runs again and again; whether a lease is dead shows only from one look to the next."""

    folder: Folder
    items: Sequence[Item] = ()
    watcher: Watcher = field(default_factory=Watcher)
    _done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.items = self.items or distinct(items(self.folder.study, default_registry()))

    def records(self) -> list[dict[str, Any]]:
        """One record a run: its places on the axes, its state, and what there is to say."""
        return [self._done.get(item.id) or self._looked(item) for item in self.items]

    def _looked(self, item: Item) -> dict[str, Any]:
        try:
            state, told = self._state(item)
        except RobustDistillError as error:
            state, told = FAILED, str(error)
        record = {"run": item.id, **item.places, "state": state, "told": told}
        if state == DONE:  # for good: not read again
            self._done[item.id] = record
        return record

    def _state(self, item: Item) -> tuple[str, str]:
        if self.folder.done(item):
            return DONE, _accuracies(self.folder.judged(item))
        holder = self.folder.holder(item)
        if self.watcher.held(self.folder.lease(item)):
            return RUNNING, f"{self._epochs(item)}{_whose(holder)}"
        if (failure := self.folder.failure(item)) is not None:
            return FAILED, f"{failure.sentence} (exit code {failure.code}; {failure.log or 'no log'})"
        begun = (self.folder.run(item).path / rundir.SPEC).exists()
        return (STOPPED, self._epochs(item)) if begun else (WAITING, "")

    def _epochs(self, item: Item) -> str:
        if item.spec is None or self.folder.trained(item):
            return "judging"
        done, last = folders.progress(self.folder.run(item))
        robust = f", {last['attack']} {percent(last['robust'])}" if last else ""
        return f"epoch {done} of {item.spec.epochs}{robust}"


def _accuracies(judged: dict[str, Any]) -> str:
    return "  ".join(f"{v['attack']} {percent(v['accuracy'])}" for v in judged["verdicts"])


def _whose(holder: Holder | None) -> str:
    return f", process {holder.pid} of {holder.machine.partition(' ')[0]}" if holder else ""


def summary(records: Sequence[dict[str, Any]]) -> str:
    """How many are in each state: "3 done, 2 running, 19 waiting of 24 runs"."""
    counts = Counter(record["state"] for record in records)
    return ", ".join(f"{counts[s]} {s}" for s in STATES if counts[s]) + f" of {len(records)} runs"


def table(records: Sequence[dict[str, Any]]) -> Table:
    """A row a run: its places on the axes, its state, and what there is to say."""
    axes = [key for key in (records[0] if records else ()) if key not in ("run", "state", "told")]
    rows = tuple((*(r[axis] for axis in axes), r["state"], r["told"]) for r in records)
    return Table((*axes, "state", ""), rows, len(axes) + 2)


def moving(records: Sequence[dict[str, Any]]) -> Table:
    """The rows of most interest: what runs and what failed."""
    these = [r for s in (RUNNING, FAILED, STOPPED) for r in records if r["state"] == s]
    return table(these[:SHOWN])


def show(folder: Folder, *, watch: bool, as_json: bool) -> None:
    """Once, or until nothing is left to do."""
    looker = Looker(folder)
    if watch:
        _keep_looking(looker)
    records = looker.records()
    if as_json:
        for record in records:
            progress.emit(record)
        return
    render.show(table(records))
    render.say([f"{folder.study.called}: {summary(records)} in {folder.path}"])


def _keep_looking(looker: Looker) -> None:
    with render.refreshed() as draw:
        records = looker.records()
        while not all(r["state"] in (DONE, FAILED) for r in records):
            draw(summary(records), moving(records))
            time.sleep(LOOK)
            records = looker.records()
