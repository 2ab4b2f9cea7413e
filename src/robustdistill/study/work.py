"""A worker: takes up one run of a study after the other that nobody else has, trains it, judges it, notes what came."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from robustdistill import judging, noted, run
from robustdistill.errors import Stopped
from robustdistill.events import Event
from robustdistill.registry import Registry
from robustdistill.store import rundir
from robustdistill.store.environment import environment
from robustdistill.store.lease import Watcher
from robustdistill.study.folder import Folder
from robustdistill.study.items import Item
from robustdistill.surroundings import in_order
from robustdistill.targets import find_target

POLL = 2.0  # seconds between two looks at what others do

Stop = Callable[[], bool]


@dataclass
class Worker:
    """Works through the `items` of a folder. `tell` hears of every event of every run, `stop` says when to stop.

    `since` is when this study was started, in the format of `eventlog.now`: what failed later is not tried again now.
    `explain` gives the exit code and the sentence of what a run fails with, `log` is where its worker prints. `lost`
    must end the process at once: it was taken for dead, and another one has its run.
    """

    folder: Folder
    items: Sequence[Item]
    registry: Registry
    since: str
    explain: Callable[[BaseException], tuple[int, str]]
    lost: Callable[[], Any]
    log: str = ""
    tell: Callable[[Item, Event | str], None] = lambda item, event: None
    stop: Stop = lambda: False
    watcher: Watcher = field(default_factory=Watcher)
    pause: Callable[[float], Any] = field(default_factory=lambda: threading.Event().wait)

    def work(self) -> None:
        """Returns when every run is done, or has failed. Waits for runs in the hands of others: they may die.

        Raises what a run fails with, once that is noted, and `Stopped` when asked to stop.
        """
        while left := self.folder.left(self.items, self.since):
            if not any(self.take(item) for item in left):
                self._unless_stopped()
                self.pause(POLL)

    def take(self, item: Item) -> bool:
        """Does one run, if nobody else has it, as part of a study or by hand; whether it did."""
        self._unless_stopped()
        lease = self.watcher.take(self.folder.lease(item), self.lost)
        if lease is None:
            return False
        with lease:
            if lease.before is not None:
                self.folder.release(item, lease.before)
            if self.folder.left([item], self.since) and not self.folder.in_use(item):  # whatever was found before
                self._noted(item)
                return True
        return False

    def _noted(self, item: Item) -> None:
        try:
            self.do(item)
        except (Stopped, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.folder.fail(item, *self.explain(error), self.log)
            raise

    def do(self, item: Item) -> None:
        """Trains what is not trained, and judges what is not judged."""
        self.folder.forgive(item)
        if not self.folder.trained(item):
            self._train(item)
        self._judge(item)
        self.tell(item, "done")

    def _train(self, item: Item) -> None:
        assert item.spec is not None
        path = self.folder.run(item).path
        begun = (path / rundir.SPEC).exists()
        self.tell(item, "goes on" if begun else "begins")
        events = (
            run.resume(path, registry=self.registry, stop=self.stop)
            if begun
            else run.train(item.spec, out=path, registry=self.registry, stop=self.stop)
        )
        for event in events:
            self.tell(item, event)

    def _judge(self, item: Item) -> None:
        if not (lacking := self.folder.lacking(item)):
            return
        self.tell(item, f"is judged under {', '.join(lacking)}")
        with in_order():
            self._judged(item)

    def _judged(self, item: Item) -> None:
        """Under the study's attacks, and those of other studies that judged it alike: their verdicts are kept."""
        ask, store = self.folder.study.judge, self.folder.run(item)
        known = self.folder.found(item)
        attacks = judging.chosen_attacks([*known, *(name for name in ask.attacks if name not in known)], self.registry)
        data = item.data or {}
        found = find_target(item.target or store.path, self.registry, data.get("name"), data.get("dir"))
        device = item.spec.device if item.spec else "auto"
        case = judging.case(
            found, self.registry, n=ask.n, eps=ask.eps, seed=item.seed, batch_size=ask.batch_size, device=device
        )
        kept = noted.parts(case)
        verdicts = list(case.verdicts(attacks, kept, lambda _: self._watch))
        facts = noted.facts(case, item.target or store.name, n=ask.n, device=device)
        if item.spec is None:  # a run has told where it ran when it began
            facts["environment"] = environment(case.device)
        store.path.mkdir(exist_ok=True)
        noted.keep(store, verdicts, facts)
        if kept:
            kept.clear()

    def _watch(self, _: object) -> None:
        self._unless_stopped()

    def _unless_stopped(self) -> None:
        if self.stop():
            raise Stopped("asked to stop; start the study again to go on")
