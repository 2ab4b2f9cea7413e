"""One writer per run directory: a file that exists while a run is in use and says who uses it."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from robustdistill.errors import UserError
from robustdistill.outside import from_json
from robustdistill.store.atomic import take_away, write_new
from robustdistill.store.eventlog import now
from robustdistill.store.plain import dumps
from robustdistill.store.process import alive, birth


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: process `pid` of `host`, started at `born` (see `process.birth`), holding it `since`."""

    pid: int
    host: str
    born: str
    since: str


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; UserError when another living process does, or one on another machine.

    A lock whose process is gone from this machine is taken over.
    """
    mine = dumps(Holder(os.getpid(), socket.gethostname(), birth(os.getpid()), now()))
    while not _created(path, mine):
        _remove_dead(path)
    try:
        yield
    finally:
        if path.exists() and _text(path) == mine:
            path.unlink()


def user(path: Path) -> str:
    """Who holds the lock file `path`, or may: a sentence; "" if there is none, or its process is gone from here."""
    try:
        _refuse_living(path, _text(path))
    except FileNotFoundError:
        return ""
    except UserError as error:
        return str(error)
    return ""


def taken_from(path: Path, pid: int, born: str) -> None:
    """Removes the lock file `path` if its holder is this process, which is known to be dead, on whatever machine."""
    try:
        holder = _holder(path, _text(path))
    except (FileNotFoundError, UserError):
        return
    if (holder.pid, holder.born) == (pid, born):
        path.unlink(missing_ok=True)


def _created(path: Path, text: str) -> bool:
    try:
        write_new(path, text.encode())  # whole at once: half of a lock, left by a crash, would hold for ever
    except FileExistsError:
        return False
    return True


def _remove_dead(path: Path) -> None:
    """Remove a dead process's lock, or raise."""
    try:
        text = _text(path)
        _refuse_living(path, text)
    except FileNotFoundError:
        return  # given back, or taken over, a moment ago
    take_away(path, text)


def _text(path: Path) -> str:
    """What a lock says. FileNotFoundError if there is none, UserError for what is no file."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise _unknown(path)
    return path.read_text(encoding="utf-8", errors="replace")


def _unknown(path: Path) -> UserError:
    return UserError(
        f"Run directory {path.parent} is locked, and its lock does not say by whom. "
        f"If no process uses the run, delete {path} and try again."
    )


def _holder(path: Path, text: str) -> Holder:
    try:
        holder = Holder(**from_json(text))
    except (ValueError, TypeError):
        raise _unknown(path) from None
    words = (holder.host, holder.born, holder.since)
    if type(holder.pid) is not int or holder.pid <= 0 or not all(isinstance(word, str) for word in words):
        raise _unknown(path)
    return holder


def _refuse_living(path: Path, text: str) -> None:
    run, holder = path.parent, _holder(path, text)
    used = f"Run directory {run} is in use by process {holder.pid} on {holder.host} since {holder.since}."
    if holder.host != socket.gethostname():
        raise UserError(f"{used} If that process is gone (this machine cannot tell), delete {path} and try again.")
    if alive(holder.pid, holder.born):
        raise UserError(f"{used} Wait for it, stop it, or choose another directory with --out.")
