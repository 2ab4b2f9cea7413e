"""`study run`: the workers of this machine, and where the study stands while they work."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from robustdistill.cli import processes, progress, render, signals, study_plan, study_status
from robustdistill.cli.drive import quoted
from robustdistill.errors import RobustDistillError, Stopped, UserError
from robustdistill.registry import default_registry
from robustdistill.store.eventlog import now
from robustdistill.study.cost import cost
from robustdistill.study.crew import Crew, places, visible_gpus
from robustdistill.study.folder import Folder
from robustdistill.study.items import distinct, items
from robustdistill.study.pace import pace

Records = Sequence[dict[str, Any]]


def run(folder: Folder, *, workers: int | None, retry: bool, slurm: str | None, as_json: bool) -> None:
    """Does what is left. Raises `Stopped` when asked to stop, RobustDistillError if runs failed in the end."""
    if processes.several():
        raise UserError("a study starts its own workers, one run each: start it without torchrun")
    registry, study = default_registry(), folder.study
    found = distinct(items(study, registry))
    folder.begin()
    if retry:
        for item in found:
            folder.forgive(item)
    looker = study_status.Looker(folder, found)
    records = looker.records()
    left = [item for item, r in zip(found, records, strict=True) if r["state"] != study_status.DONE]
    gpus = visible_gpus(left)
    price = study_plan.sentence(cost(left, study.judge, registry), pace(folder, found, registry), gpu=bool(gpus))
    print(f"{study.called}: {study_status.summary(records)} in {folder.path}\nleft: {price}", file=sys.stderr)
    since, many = now(), workers or max(1, len(gpus))
    if slurm is not None:
        from robustdistill.cli.slurm import submit

        submit(folder, command(folder, since, 0), many, slurm)
        return
    _run_here(folder, looker, places(many, gpus), since, as_json)


def command(folder: Folder, since: str, parent: int) -> list[str]:
    """The command of one worker."""
    which = [sys.executable, "-m", "robustdistill", "study", "work", str(folder.path), folder.study.called]
    return [*which, "--since", since, "--parent", str(parent)]


def _run_here(folder: Folder, looker: study_status.Looker, where: Sequence[Any], since: str, as_json: bool) -> None:
    with signals.listening() as asked, _look(looker, as_json) as look:
        asked.training = True
        crew = Crew(
            folder,
            looker.items,
            command(folder, since, os.getpid()),
            left=lambda: folder.left(looker.items, since),
            look=look,
            stop=asked,
        )
        ended = crew.run(where)
    if not ended:
        again = f"go on with: robustdistill study {quoted(folder.path)}"
        if asked.interrupted:
            print(f"stopped, and every run is saved; {again}", file=sys.stderr)
            raise KeyboardInterrupt
        raise Stopped(f"stopped, and every run is saved; {again}")
    _refuse_failed(folder, looker.records())


def _refuse_failed(folder: Folder, records: Records) -> None:
    failed = [r for r in records if r["state"] == study_status.FAILED]
    if failed:
        first = failed[0]
        raise RobustDistillError(
            f"{len(failed)} of {len(records)} runs failed, the others are done; {first['run']}: {first['told']}. "
            f"`robustdistill study status {quoted(folder.path)}` shows all; --retry tries them again"
        )


@contextmanager
def _look(looker: study_status.Looker, as_json: bool) -> Iterator[Callable[[], None]]:
    """What shows where the study stands: a table that moves, or a line whenever a run changes its state."""
    if not as_json and render.on_terminal(sys.stderr):
        with render.refreshed() as draw:

            def table() -> None:
                records = looker.records()
                draw(study_status.summary(records), study_status.moving(records))

            yield table
        return
    seen: dict[str, str] = {}

    def lines() -> None:
        for record in looker.records():
            if seen.get(record["run"], study_status.WAITING) != record["state"]:
                _tell(record, as_json)
            seen[record["run"]] = record["state"]

    yield lines
    lines()


def _tell(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        progress.emit(record)
    else:
        print(f"{record['state']}  {record['run']}  {record['told']}", file=sys.stderr, flush=True)
