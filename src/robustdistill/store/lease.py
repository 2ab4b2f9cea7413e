"""A claim on a piece of work that several processes, on one machine or on many that share a folder, may take up.

A lease is a file that exists while somebody works; its holder touches it every `BEAT` seconds. Clocks of machines
differ, so nobody compares times: who sees a lease untouched for `EXPIRY` seconds of their own clock may take it over,
and at once if its holder ran on this machine and is gone.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from robustdistill.outside import from_json
from robustdistill.store.atomic import take_away
from robustdistill.store.eventlog import now
from robustdistill.store.plain import dumps
from robustdistill.store.process import alive, birth

BEAT, EXPIRY = 5.0, 60.0

Mark = tuple[str, int]
"""What a lease says and when it was touched last, by the clock of the file system."""


class Lease:
    """A lease that this process holds: `with lease:` keeps it fresh, and gives it back in the end.

    `lost()` is called, from another thread, when the lease turns out to be somebody else's: this process was taken for
    dead, and must write nothing more.
    """

    def __init__(self, path: Path, text: str, before: "Holder | None", lost: Callable[[], Any], beat: float) -> None:
        self.path, self.text, self.before = path, text, before
        self._lost, self._beat, self._end = lost, beat, threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {path.name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if _text(self.path) == self.text:
            self.path.unlink(missing_ok=True)

    def _keep(self) -> None:
        while not self._end.wait(self._beat):
            if _text(self.path) != self.text:
                self._lost()
                return
            with suppress(OSError):  # a file system that is away for a moment; others wait EXPIRY before they take over
                os.utime(self.path)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: process `pid`, begun at `born` (see `process.birth`), on `machine`; since when."""

    machine: str
    pid: int
    born: str
    since: str

    @classmethod
    def of(cls, text: str) -> "Holder | None":
        """The holder that a lease names; None for what is no lease, or one that is being written."""
        try:
            told = from_json(text)
            holder = cls(*(told[name] for name in cls.__dataclass_fields__))
        except (ValueError, KeyError, TypeError):
            return None
        words = isinstance(holder.machine, str) and isinstance(holder.born, str) and isinstance(holder.since, str)
        return holder if words and type(holder.pid) is int and holder.pid > 0 else None

    @property
    def gone(self) -> bool:
        """Whether it ran on this machine and runs no more; False where that cannot be told."""
        return self.machine == machine() and not alive(self.pid, self.born)


@dataclass
class Watcher:
    """Takes leases; remembers those of others from one look to the next, and so finds out which of them are dead."""

    expiry: float = EXPIRY
    beat: float = BEAT
    clock: Callable[[], float] = time.monotonic
    _seen: dict[Path, tuple[Mark, float]] = field(default_factory=dict)

    def take(self, path: Path, lost: Callable[[], Any]) -> Lease | None:
        """The lease at `path`, new or taken over from somebody dead; None while somebody else holds it."""
        before = None
        if (mark := _mark(path)) is not None:
            if not self._dead(path, mark) or not take_away(path, mark[0]):
                return None
            before = Holder.of(mark[0])
        text = dumps({**vars(Holder(machine(), os.getpid(), birth(os.getpid()), now())), "token": uuid.uuid4().hex})
        return Lease(path, text, before, lost, self.beat) if _created(path, text) else None

    def held(self, path: Path) -> bool:
        """Whether somebody holds the lease at `path` and, as far as is known by now, lives."""
        mark = _mark(path)
        return mark is not None and not self._dead(path, mark)

    def _dead(self, path: Path, mark: Mark) -> bool:
        holder = Holder.of(mark[0])
        if holder is not None and holder.gone:
            return True
        seen, since = self._seen.get(path, (None, 0.0))
        if seen != mark:
            self._seen[path] = mark, self.clock()
            return False
        return self.clock() - since > self.expiry


def machine() -> str:
    """This machine, or this container of it: process numbers mean nothing elsewhere."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:  # not on Linux
        space = ""
    return f"{socket.gethostname()} {space}".strip()


def _created(path: Path, text: str) -> bool:
    """Creates `path` unless it exists: of several processes, on several machines, one succeeds."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return True


def _mark(path: Path) -> Mark | None:
    """None if there is no lease. The file is opened first: network file systems then look at it anew."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _text(path: Path) -> str | None:
    mark = _mark(path)
    return mark[0] if mark else None
