"""`events.jsonl`: one JSON object per line, `{"event": "evaluated", "time": ..., ...fields}`, added as a run goes."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from robustdistill.errors import DamagedFile
from robustdistill.outside import from_json
from robustdistill.store.atomic import read_file, sync
from robustdistill.store.plain import plain

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def now() -> str:
    """The time in UTC, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def append(path: Path, event: "DataclassInstance") -> None:
    """Add one record; a half-written line that a crash left at the end is dropped first."""
    record = {"event": type(event).__name__.lower(), "time": now(), **plain(event)}
    line = json.dumps(record, allow_nan=False) + "\n"
    with path.open("a+b") as file:
        _drop_half_line(file)
        file.write(line.encode())


def read(path: Path) -> list[dict[str, Any]]:
    """All events in order. A last line without its end, still being written or cut by a crash, is left out.

    Raises DamagedFile, naming the line, when a whole line is no JSON.
    """
    content = _content(path)
    lines = content.split(b"\n")[:-1]
    return [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]


def offset(path: Path) -> int:
    """Bytes of whole lines so far, all of them on disk: what a checkpoint remembers for `truncate`."""
    if not path.exists():
        return 0
    sync(path)
    return _whole_lines(path.read_bytes())


def state(path: Path) -> dict[str, Any]:
    """What a checkpoint remembers of the log for `altered`: the bytes of its whole lines, and their SHA-256."""
    size = offset(path)
    return {"bytes": size, "sha256": hashlib.sha256(_content(path)[:size]).hexdigest()}


def altered(path: Path, before: Any) -> bool:
    """Whether the log no longer begins as it was when `state` gave `before`; False if `before` is no such state."""
    match before:
        case {"bytes": int(size), "sha256": str(known)}:
            return hashlib.sha256(_content(path)[:size]).hexdigest() != known
    return False


def truncate(path: Path, size: int) -> None:
    """Forget what came after `offset` gave `size`: a resumed run tells those epochs again."""
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)
        sync(path)


def _content(path: Path) -> bytes:
    try:
        return read_file(path)
    except FileNotFoundError:
        return b""


def _drop_half_line(file: BinaryIO) -> None:
    if file.tell() == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read() != b"\n":
        file.seek(0)
        file.truncate(_whole_lines(file.read()))


def _whole_lines(content: bytes) -> int:
    return content.rfind(b"\n") + 1


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = from_json(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise DamagedFile(f"Line {number} of {path} is not a JSON object; remove that line to read the others.")
    return record
