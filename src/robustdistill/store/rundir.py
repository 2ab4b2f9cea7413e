"""A run's directory: what was asked, where it ran, what happened, what came out.

`spec.toml`, `environment.json`, `events.jsonl`, `checkpoints/`, `result.json`, `evaluation.json` and
`examples.safetensors` once judged by `eval`, and `lock` while in use.
"""

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustdistill.errors import UserError
from robustdistill.store import eventlog, lock, sealed
from robustdistill.store.atomic import LEFTOVER, tidy, write_atomic

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SPEC, ENVIRONMENT, EVENTS, CHECKPOINTS, RESULT, EVALUATION, EXAMPLES, LOCK = (
    "spec.toml",
    "environment.json",
    "events.jsonl",
    "checkpoints",
    "result.json",
    "evaluation.json",
    "examples.safetensors",
    "lock",
)
BEST = "best"  # the pointer to the checkpoint of the best epoch
AGAIN = "restore it from a copy, or run again"

UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Errors of a place where nothing may be written, be there room or not."""


@dataclass(frozen=True)
class RunDir:
    """A directory that holds a run; `create` and `open_run` make these."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def checkpoints(self) -> Path:
        """The folder that `store.checkpoint` calls `root`."""
        return self.path / CHECKPOINTS

    @contextmanager
    def locked(self) -> Iterator[None]:
        """`with run.locked():` the only writer; UserError when another process is. Clears what dead writers left."""
        with lock.held(self.path / LOCK):
            for folder in (self.path, self.checkpoints):
                tidy(folder)
            yield

    def read_spec(self) -> str:
        """The resolved spec, as TOML text."""
        return (self.path / SPEC).read_text(encoding="utf-8")

    def read_environment(self) -> dict[str, Any]:
        """What `create` was given. DamagedFile when it is missing or was changed by a byte."""
        return sealed.read(self.path / ENVIRONMENT, AGAIN)

    def append_event(self, event: "DataclassInstance") -> None:
        """Add a record to the event log (see `eventlog`)."""
        eventlog.append(self.path / EVENTS, event)

    def read_events(self) -> list[dict[str, Any]]:
        """All events; a half-written last line is left out. DamagedFile names any other broken line."""
        return eventlog.read(self.path / EVENTS)

    def events_offset(self) -> int:
        """Where the event log stands, in bytes: store it in a checkpoint, give it to `truncate_events`."""
        return eventlog.offset(self.path / EVENTS)

    def events_state(self) -> dict[str, Any]:
        """Size and SHA-256 of the event log: what a checkpoint's manifest says of it."""
        return eventlog.state(self.path / EVENTS)

    def truncate_events(self, offset: int) -> None:
        """Forget the events after `offset`."""
        eventlog.truncate(self.path / EVENTS, offset)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`; numbers that are not finite become null."""
        sealed.write(self.path / RESULT, result)

    def read_result(self) -> dict[str, Any]:
        """What `write_result` wrote. UserError while there is none, DamagedFile when it was changed by a byte."""
        if not (self.path / RESULT).exists():
            raise UserError(f"Run {self.path} has no result yet: it still runs, or stopped early; --resume goes on.")
        return sealed.read(self.path / RESULT, AGAIN)


def create(path: Path, spec_toml: str, environment: Mapping[str, Any]) -> RunDir:
    """Start a run in `path`, a new or empty directory; UserError when something is there, or nothing can be written.

    The spec comes last: with it there is a run. What a process left that died before does not count as something.
    """
    refuse_occupied(path)
    new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with lock.held(path / LOCK):
            refuse_occupied(path)  # of two processes that start the same run, one comes first
            (path / CHECKPOINTS).mkdir(exist_ok=True)
            sealed.write(path / ENVIRONMENT, environment)
            write_atomic(path / SPEC, spec_toml)
    except OSError as error:
        if new:
            shutil.rmtree(path, ignore_errors=True)
        if error.errno in UNWRITABLE:
            raise UserError(f"nothing can be written to {path}: {error.strerror}; choose another --out") from error
        raise
    return RunDir(path)


def open_run(path: Path) -> RunDir:
    """The run in `path`; UserError when there is none."""
    if not (path / SPEC).is_file():
        what = f"it has no {SPEC}" if path.exists() else "it does not exist"
        raise UserError(f"{path} is not a run directory: {what}. Name a directory that `train` made.")
    return RunDir(path)


def unused(path: Path) -> Path:
    """`path` itself if nothing is there, else the first of `path-2`, `path-3`, ... that is free."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return path if not path.exists() else next(free for free in numbered if not free.exists())


def newest(root: Path, fits: Callable[[RunDir], bool] = lambda _: True) -> RunDir:
    """The run under `root`, at most three folders deep, started or finished last; UserError when there is none.

    Those that `fits` go before others.
    """
    found = runs(root)
    if not found:
        raise UserError(f"There is no run in {root}. Train one first, or name a run directory.")
    return max([run for run in found if fits(run)] or found, key=lambda run: (_changed(run), run.path))


def runs(root: Path) -> list[RunDir]:
    """The runs under `root`, at most three folders deep."""
    found = (spec for depth in ("*", "*/*", "*/*/*") for spec in root.glob(f"{depth}/{SPEC}"))
    return [RunDir(spec.parent) for spec in found if spec.is_file()]


def _changed(run: RunDir) -> float:
    return max(file.stat().st_mtime for name in (SPEC, RESULT) if (file := run.path / name).exists())


def refuse_occupied(path: Path) -> None:
    """UserError unless `path` is free for a new run: not there, empty, or what a process left that died too early."""
    if (path / SPEC).exists():
        raise UserError(f"{path} already holds a run. Go on with it by --resume, or choose another --out.")
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, not a directory; choose another --out.")
    if path.exists() and not all(map(_unborn, path.iterdir())):
        raise UserError(f"{path} holds files that are no run; choose another --out, or an empty directory.")


def _unborn(path: Path) -> bool:
    """Whether this is part of a run that does not exist yet, for want of a spec."""
    empty = path.name == CHECKPOINTS and path.is_dir() and not any(path.iterdir())
    return empty or path.name in (ENVIRONMENT, LOCK) or LEFTOVER.fullmatch(path.name) is not None
