"""Decoded images, kept from one run to the next: one file per data set, never needed and never trusted."""

import contextlib
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from robustdistill.data.arrays import Arrays

FORMAT = 1  # raise it when the same sources should decode to something else
Parts = tuple[Arrays, Arrays]


def cached(name: str, sources: Sequence[Path], read: Callable[[], Parts]) -> Parts:
    """`read()`, or what it returned before for the same `sources` (paths, sizes and times of change).

    Train and test are stored in `NAME.npz`, uncompressed and without pickled objects, in the user's cache folder.
    A cache that is missing, damaged or of other sources is replaced; one that cannot be written is done without.
    """
    fingerprint = _fingerprint(sources)
    try:
        path = folder() / f"{name}.npz"
    except RuntimeError:  # no home folder
        return read()
    parts = _load(path, fingerprint)
    if parts is None:
        parts = read()
        _save(path, fingerprint, parts)
    return parts


def folder() -> Path:
    """`$XDG_CACHE_HOME/robustdistill`, by default `~/.cache/robustdistill`. Raises RuntimeError without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robustdistill"


def _fingerprint(sources: Sequence[Path]) -> str:
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    return hashlib.sha256(repr((FORMAT, facts)).encode()).hexdigest()


def _load(path: Path, fingerprint: str) -> Parts | None:
    try:
        if not path.is_file() or _unfolds(path):  # a pipe would block
            return None
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["fingerprint"]) != fingerprint:
                return None
            train = Arrays(stored["train_images"], stored["train_labels"])
            test = Arrays(stored["test_images"], stored["test_labels"])
            return (train, test) if _sound(train) and _sound(test) else None
    except Exception:  # whatever is wrong with it (the archive's checksums are read too), the sources are still there
        return None


def _unfolds(path: Path) -> bool:
    """Whether its parts would take more room than it has itself: it is written uncompressed."""
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size


def _sound(arrays: Arrays) -> bool:
    images, labels = arrays
    kinds = images.dtype == np.uint8 and labels.dtype == np.int64
    return kinds and (images.ndim, labels.ndim) == (4, 1) and len(images) == len(labels)


def _save(path: Path, fingerprint: str, parts: Parts) -> None:
    train, test = parts
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            new = Path(scratch) / path.name
            np.savez(
                new,
                fingerprint=np.array(fingerprint),
                train_images=train.images,
                train_labels=train.labels,
                test_images=test.images,
                test_labels=test.labels,
            )
            os.replace(new, path)
