"""Files and directories that are either whole or not there: no reader and no crash ever sees half of one.

What is being written is called `.tmp-<name>-<pid>` and lies in the same directory, because a rename is atomic
only within one file system; a directory on its way out is called `.old-<name>-<pid>`.
"""

import errno
import hashlib
import os
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from robustdistill.store.process import alive

LEFTOVER = re.compile(r"\.(tmp|old)-(.+)-(\d+)")


def partial(path: Path) -> Path:
    """Where this process prepares `path`."""
    return path.with_name(f".tmp-{path.name}-{os.getpid()}")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write or replace `path` in one step; text is UTF-8. On any failure the old file stays, and nothing else."""
    prepared = partial(path)
    try:
        prepared.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(prepared)
        os.replace(prepared, path)
    except BaseException:
        prepared.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_new(path: Path, content: bytes) -> None:
    """Write `path` in one step. FileExistsError if something is there, however late it came; it is left alone."""
    prepared = partial(path)
    try:
        prepared.write_bytes(content)
        sync(prepared)
        _give_name(prepared, path)
    finally:
        prepared.unlink(missing_ok=True)
    sync(path.parent)


def _give_name(prepared: Path, path: Path) -> None:
    """`prepared` is `path` too from now on, or instead. FileExistsError if something is there."""
    try:
        os.link(prepared, path)  # unlike a rename this never replaces anything
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.rename(prepared, path)


def take_away(path: Path, text: str) -> bool:
    """Removes the file `path` if it says `text`, or is gone already. Of two that try, one must not remove what a third
    has put in its place since: then it is put back, and the answer is False.
    """
    aside = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}-{os.getpid()}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    same = aside.read_text(encoding="utf-8", errors="replace") == text
    if not same:
        with suppress(FileExistsError):  # somebody was faster still: who has lost it must find that out
            _give_name(aside, path)
    aside.unlink(missing_ok=True)
    return same


def publish(prepared: Path, target: Path) -> None:
    """Move a finished directory into place. A directory cannot replace a full one, so the old one steps aside."""
    old = target.with_name(f".old-{target.name}-{os.getpid()}")
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(prepared, target)
    except BaseException:
        if old.exists():
            os.replace(old, target)
        raise
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove(folder: Path) -> None:
    """Delete a directory; half-deleted, it is no longer seen under its name."""
    aside = partial(folder)
    os.replace(folder, aside)
    shutil.rmtree(aside)


def tidy(root: Path) -> None:
    """Clear what dead writers left in `root`: put back what stepped aside, delete what was never finished."""
    for path in leftovers(root):
        left = LEFTOVER.fullmatch(path.name)
        assert left is not None
        home = root / left[2]
        if left[1] == "old" and not home.exists():
            os.replace(path, home)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def leftovers(root: Path) -> list[Path]:
    """What dead writers left in `root`, and what this process itself did."""
    found = ((path, LEFTOVER.fullmatch(path.name)) for path in sorted(root.glob(".*")))
    return [path for path, left in found if left and (int(left[3]) == os.getpid() or not alive(int(left[3])))]


def sync(path: Path) -> None:
    """Wait until the file is on disk; of a directory, until its list of names is."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no directories, and needs no such thing
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_file(path: Path) -> bytes:
    """A file's content. FileNotFoundError if nothing is there, or something that is no file: a pipe would block."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return path.read_bytes()


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
