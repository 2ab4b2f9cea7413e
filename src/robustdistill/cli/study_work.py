"""One worker of a study: its runs' progress as lines, and what a run failed with."""

import os
import sys
from pathlib import Path

from robustdistill.cli import failures, progress, signals
from robustdistill.cli.progress import View, advance
from robustdistill.errors import Stopped
from robustdistill.events import Event
from robustdistill.registry import default_registry
from robustdistill.store.eventlog import now
from robustdistill.study.crew import WORKERS
from robustdistill.study.folder import LOGS, PLANS, Folder
from robustdistill.study.items import Item, distinct, items
from robustdistill.study.plan import load_study
from robustdistill.study.work import Worker


def work(path: Path, called: str, since: str, parent: int) -> None:
    """Works until nothing is left; raises what a run fails with, so that the next one gets a new process."""
    registry = default_registry()
    study = load_study(path / f"{called}{PLANS}")
    with signals.listening() as asked:
        asked.training = True  # every run is saved where it stands, and what is not begun loses nothing
        worker = Worker(
            Folder(path, study),
            distinct(items(study, registry)),
            registry,
            since,
            explain,
            lost,
            log=f"{LOGS}/{WORKERS}, process {os.getpid()}",
            tell=_Teller(),
            stop=lambda: asked() or (parent != 0 and os.getppid() != parent),
        )
        worker.work()


def lost() -> None:
    """Ends this process without writing anything more, not even what is kept on the way out of a run."""
    print(f"{now()} {os.getpid()}: taken for dead, and another process has its run; this one ends here", flush=True)
    os._exit(Stopped.exit_code)


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the sentence that the command line gives for an error."""
    text, code = failures.sentence(error) or failures.bug(error, shown=True)
    return code, text


class _Teller:
    """Writes what happens as lines, each with the time, the process and the run."""

    def __init__(self) -> None:
        self._item, self._view = "", View()

    def __call__(self, item: Item, event: Event | str) -> None:
        if isinstance(event, str):
            self._write(item, event)
            return
        if item.id != self._item:
            self._item, self._view = item.id, View()
        self._view = advance(self._view, event)
        if text := progress.line(event, self._view):
            self._write(item, text)

    def _write(self, item: Item, text: str) -> None:
        print(f"{now()} {os.getpid()} {item.id}: {text}", file=sys.stdout, flush=True)
