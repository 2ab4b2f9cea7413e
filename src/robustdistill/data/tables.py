"""Folders of parquet files in Hugging Face's layout: `train-*.parquet` and `test-*.parquet`, classes named inside."""

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustdistill.data.arrays import checked_labels
from robustdistill.data.listing import TESTS, Encoded, Listing, Part
from robustdistill.data.parquet import IMAGE_COLUMNS, opened, shards
from robustdistill.errors import DamagedFile, UserError

LABELS = ("label", "fine_label", "labels")
AT_ONCE = 64  # encoded images in memory


def listing(path: Path) -> Listing:
    """The images of the parquet files in `path` or `path/data`: a column `img` or `image` with encoded images, and a
    column of integers, `label` or `fine_label`. Names of classes are those that the files state, else 0, 1, 2, ...

    Raises UserError where there are no files; DamagedFile for one that cannot be read or has other columns.
    """
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; write --data parquet:FOLDER")
    found = next((f for f in (path, path / "data") if any(f.glob("train-*.parquet"))), None)
    if found is None:
        raise UserError(f"{path} holds no train-*.parquet, nor does {path / 'data'}; write --data parquet:FOLDER")
    train = shards(found, "train")
    test = next((files for name in TESTS if (files := shards(found, name))), [])
    return listed(path, train, test)


def listed(
    path: Path, train: Sequence[Path], test: Sequence[Path], classes: tuple[str, ...] = (), mend: str = ""
) -> Listing:
    """The images of these files. Labels are below the number of `classes`, or of the names that the files state, or
    any. `mend` as in `Listing`.
    """
    label, stated = _label(train[0])
    known = classes or stated
    return Listing(
        path,
        known or _numbered(train, label),
        _part(train, label, len(known)),
        _part(test, label, len(known)) if test else None,
        [*train, *test],
        mend,
    )


def named(file: Path) -> tuple[str, ...]:
    """What a file calls its classes; () where it does not say. DamagedFile for one that cannot be read."""
    return _label(file)[1]


def _label(file: Path) -> tuple[str, tuple[str, ...]]:
    """The column of labels, and the classes that the file states, if any."""
    with opened(file) as table:
        schema = table.schema_arrow
        names = schema.names
        column = next((name for name in LABELS if name in names), None)
        if column is not None and any(name in names for name in IMAGE_COLUMNS):
            return column, _stated(schema.metadata or {}, column)
    raise DamagedFile(
        f"{file} has the columns {', '.join(names)}; expected img or image, and one of {', '.join(LABELS)}"
    )


def _stated(metadata: dict[bytes, bytes], column: str) -> tuple[str, ...]:
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _numbered(files: Sequence[Path], label: str) -> tuple[str, ...]:
    most = max(max(values, default=-1) for values in (_labels(file, label) for file in files))
    return tuple(map(str, range(most + 1)))


def _labels(file: Path, label: str) -> list[Any]:
    with opened(file) as table:
        if table.metadata.num_rows > file.stat().st_size:
            raise ValueError(f"it claims {table.metadata.num_rows:,} rows, more than it has bytes")
        values: list[Any] = table.read(columns=[label])[label].to_pylist()
    bad = next((row for row, value in enumerate(values) if not isinstance(value, int) or value < 0), None)
    if bad is not None:
        raise DamagedFile(f"row {bad} of {file} has no label that is an integer from 0 on")
    return values


def _part(files: Sequence[Path], label: str, classes: int) -> Part:
    labels = [checked_labels(v := _labels(file, label), classes or max(v, default=0) + 1, file) for file in files]
    return Part(np.concatenate(labels), functools.partial(_read, files))


def _read(files: Sequence[Path]) -> Iterator[Encoded]:
    for file in files:
        row = 0
        with opened(file) as table:
            column = next(name for name in IMAGE_COLUMNS if name in table.schema_arrow.names)
            for batch in table.iter_batches(batch_size=AT_ONCE, columns=[column]):
                for value in batch.column(0).to_pylist():
                    data = value.get("bytes") if isinstance(value, dict) else value
                    yield Encoded(f"row {row} of {file}", data if isinstance(data, bytes) else b"")
                    row += 1
