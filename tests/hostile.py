"""What may have happened to a file: faults by name, each from a good file's content to a bad one in its place."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

CANARY = "canary"  # appears in the current folder if a planted program runs


class Program:
    """Unpickled by anything that runs code, it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (CANARY,)


def flip(content: bytes, at: int | None = None, bit: int = 0) -> bytes:
    """One bit of one byte, of the middle one unless `at` says which."""
    place = len(content) // 2 if at is None else at
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flip,
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "page": lambda _: b"<!DOCTYPE html>\n<html><title>Sign in</title></html>\n",
    "program": lambda _: pickle.dumps({"state_dict": Program()}, protocol=2),
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "deep": lambda _: b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "long number": lambda _: b'{"schema": ' + b"9" * 10_000 + b"}\n",
    "zeros": lambda content: bytes(len(content)),
}
FAULTS = [*BYTES, "folder", "pipe", "missing"]


def spoil(path: Path, fault: str) -> None:
    """Does `fault` to the file `path`."""
    content = path.read_bytes()
    if fault in BYTES:
        path.write_bytes(BYTES[fault](content))
        return
    path.unlink()
    if fault == "folder":
        path.mkdir()
    if fault == "pipe":
        os.mkfifo(path)


def copied(source: Path, target: Path) -> Path:
    """A run's folder, or any other, to be spoilt."""
    return Path(shutil.copytree(source, target))
