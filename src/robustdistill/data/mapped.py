"""Decoded images as files that are mapped into memory: made once, checked whenever they are opened, never trusted.

A set may be larger than the memory: what is read of it is read from disk, and the system keeps what it has room for.
"""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from robustdistill.data import cache
from robustdistill.types import Split

FORMAT = 1  # raise it when the same sources should give something else
FACTS = "facts.json"
T = TypeVar("T")
Row = tuple[int, NDArray[np.uint8]]


class Plan(NamedTuple):
    """A part to be made: its labels `[N]`, the shape `[C, H, W]` of its images, and the images by their places."""

    labels: NDArray[np.int64]
    shape: tuple[int, int, int]
    rows: Callable[[], Iterator[Row]]


def facts(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """What tells whether files are those of another time: their paths, sizes and times of change."""
    return [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def picked(items: Iterable[T], places: Sequence[int]) -> Iterator[tuple[int, T]]:
    """Of `items`, those at `places`, each with its own place among these."""
    at = {row: place for place, row in enumerate(places)}
    return ((at[row], item) for row, item in enumerate(items) if row in at)


def mapped(sources: object, parts: Mapping[str, Plan]) -> dict[str, Split]:
    """The parts, from the user's cache where they were made of the same `sources` before, else made and put there.

    `sources` is anything whose `repr` differs where the images would. Where no cache can be had, they are made in
    memory. OSError where the disk is full.
    """
    key = hashlib.sha256(repr((FORMAT, sources, [(n, p.shape) for n, p in parts.items()])).encode()).hexdigest()[:32]
    try:
        folder = cache.folder() / "images" / key
        found = _opened(folder, parts)
        return found or _made(folder, parts)
    except (PermissionError, RuntimeError):  # RuntimeError: no home folder
        return {name: _in_memory(plan) for name, plan in parts.items()}


def _opened(folder: Path, parts: Mapping[str, Plan]) -> dict[str, Split] | None:
    """None where a part is missing, or is not as it was written."""
    try:
        sums = json.loads((folder / FACTS).read_bytes())
        if any(sums[name] != _sha256(folder / f"{name}.npy") for name in parts):
            return None
        return _splits(folder, parts)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _splits(folder: Path, parts: Mapping[str, Plan]) -> dict[str, Split]:
    return {name: _split(folder / f"{name}.npy", plan) for name, plan in parts.items()}


def _split(file: Path, plan: Plan) -> Split:
    images = np.load(file, mmap_mode="r", allow_pickle=False)
    if images.shape != (len(plan.labels), *plan.shape) or images.dtype != np.uint8:
        raise ValueError(f"{file} is of another shape")
    return Split(_tensor(images), torch.from_numpy(plan.labels))


def _tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes there
        return torch.from_numpy(images)


def _made(folder: Path, parts: Mapping[str, Plan]) -> dict[str, Split]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as scratch:
        new = Path(scratch) / folder.name
        new.mkdir()
        for name, plan in parts.items():
            _write(new / f"{name}.npy", plan)
        sums = {name: _sha256(new / f"{name}.npy") for name in parts}
        (new / FACTS).write_text(json.dumps(sums))
        _replace(new, folder)
    return _splits(folder, parts)


def _replace(new: Path, folder: Path) -> None:
    aside = new.with_name("old")
    with suppress(FileNotFoundError):
        os.rename(folder, aside)  # a damaged one; it goes with the scratch folder
    with suppress(OSError):  # another process was faster
        os.rename(new, folder)


def _write(file: Path, plan: Plan) -> None:
    images: Any = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(len(plan.labels), *plan.shape))
    _reserve(file)
    for place, pixels in plan.rows():
        images[place] = pixels
    images.flush()


def _reserve(file: Path) -> None:
    """Takes the room on the disk now: a disk that fills up under a mapping kills the process."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def _in_memory(plan: Plan) -> Split:
    images = np.empty((len(plan.labels), *plan.shape), dtype=np.uint8)
    for place, pixels in plan.rows():
        images[place] = pixels
    return Split(torch.from_numpy(images), torch.from_numpy(plan.labels))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
