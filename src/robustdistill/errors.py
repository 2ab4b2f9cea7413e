"""Errors a user can act on: each says what is wrong, which thing, and what to do instead.

Every class carries the exit code that the command line ends with.
"""

import difflib
import errno
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MOST_NAMES, NEAREST = 30, 10  # names that a sentence may list whole, and how many it lists of more


class RobustDistillError(Exception):
    """Root of all errors raised on purpose; the CLI prints its sentence instead of a traceback."""

    exit_code = 1


class UserError(RobustDistillError, ValueError):
    """Bad input: an unknown name, a value out of range, things that do not fit together."""

    exit_code = 2


class Diverged(RobustDistillError):
    """A loss or a gradient stopped being finite. `record` tells of the step where: plain values for JSON."""

    exit_code = 3

    def __init__(self, message: str, record: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.record = dict(record or {})


class DamagedFile(RobustDistillError):
    """A file that is truncated, altered, of the wrong kind, or unsafe to read."""

    exit_code = 4


class UnsafeFile(DamagedFile):
    """A file that can only be read by running code that it brings; `code` names what it would run."""

    def __init__(self, sentence: str, code: Sequence[str]) -> None:
        super().__init__(sentence)
        self.code = tuple(code)


class Stopped(RobustDistillError):
    """Asked to stop, a run stopped between two steps: it can be resumed from there."""

    exit_code = 75


class PluginError(RobustDistillError):
    """A plugin that the run asked for does not work."""

    exit_code = 7


class ProcessesApart(RobustDistillError):
    """The processes of a run lost one of them, or are no longer equal."""

    exit_code = 8


def disk_full(error: BaseException) -> bool:
    """Whether there is no room left on a disk, or in a quota."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def suggestion(name: str, known: Iterable[str]) -> str:
    """ "; did you mean NAME?" with the closest known name, whatever its case; empty if none is close."""
    close = _closest(name, known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def nearest(name: str, known: Iterable[str], listed: str = "", hint: str = "") -> str:
    """The tail of an "unknown name" sentence: `hint` or the closest known name, then all of them.

    Of more than a sentence can hold the nearest are named, and `listed`, the command that prints all.
    """
    names = sorted(set(known))
    hint = hint or suggestion(name, names) or "."
    if len(names) <= MOST_NAMES:
        return f"{hint} Known: {', '.join(names) or 'none'}."
    instead = f"; all: {listed}" if listed else ""
    return f"{hint} Nearest of {len(names):,}: {', '.join(_closest(name, names, NEAREST, 0.0))}{instead}."


def _closest(name: str, known: Iterable[str], n: int, cutoff: float) -> list[str]:
    plain = {k.lower(): k for k in known}
    return [plain[k] for k in difflib.get_close_matches(name.lower(), plain, n=n, cutoff=cutoff)]
