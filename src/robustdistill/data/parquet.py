"""Images in parquet files, in Hugging Face's layout: a column of encoded images and a column of labels."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustdistill.data.arrays import Arrays, checked_labels, joined
from robustdistill.errors import DamagedFile, UserError, first_line

IMAGE_COLUMNS = ("img", "image")


def shards(folder: Path, name: str) -> list[Path]:
    """The files `name-*.parquet` of `folder`, sorted. Raises UserError when `...-of-N` says that some are missing."""
    found = sorted(folder.glob(f"{name}-*.parquet"))
    totals = [int(m[1]) for file in found if (m := re.search(r"-of-(\d+)(-[0-9a-f]+)?$", file.stem))]
    if totals and len(found) != totals[0]:
        raise UserError(f"{folder} holds {len(found)} of the {totals[0]} files {name}-*.parquet; download all of them")
    return found


def read(paths: Sequence[Path], *, label: str = "label", size: int = 32, classes: int = 10) -> Arrays:
    """All rows of the files `paths`, in order: RGB images `[N, 3, size, size]`, labels below `classes`.

    A file has a column `img` or `image`, struct {bytes, path} with a PNG or JPEG image in `bytes`, and an
    integer column `label`. Raises: DamagedFile naming the file, and the row where it is one.
    """
    return joined([_read_file(path, label, size, classes) for path in paths])


def rows(path: Path) -> int:
    """The number of rows of a file, from its footer. DamagedFile when it is no parquet file."""
    with opened(path) as file:
        return int(file.metadata.num_rows)


def _read_file(path: Path, label: str, size: int, classes: int) -> Arrays:
    encoded, labels = _columns(path, label)
    images = np.empty((len(encoded), size, size, 3), dtype=np.uint8)
    for row, data in enumerate(encoded):
        images[row] = _decode(data, size, f"row {row} of {path}")
    return Arrays(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), checked_labels(labels, classes, path))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`; what goes wrong with it in the block is a DamagedFile."""
    import pyarrow.parquet as pq  # here and not above: naming a data set need not load it

    try:
        if not path.is_file():
            raise ValueError("it is no file")
        with pq.ParquetFile(path) as file:
            yield file
    except Exception as error:  # pyarrow raises errors of many types on damaged bytes
        raise DamagedFile(f"{path} cannot be read as parquet ({first_line(error)}); download it again") from error


def _columns(path: Path, label: str) -> tuple[list[Any], list[Any]]:
    with opened(path) as file:
        if file.metadata.num_rows > path.stat().st_size:
            raise ValueError(f"it claims {file.metadata.num_rows:,} rows, more than it has bytes")
        table = file.read().flatten()
        names = table.column_names
        column = next((f"{name}.bytes" for name in IMAGE_COLUMNS if f"{name}.bytes" in names), None)
        if column is not None and label in names:
            return table[column].to_pylist(), table[label].to_pylist()
    raise DamagedFile(
        f"{path} has the columns {', '.join(names)}; expected img or image, each row with bytes and path, and {label}"
    )


def _decode(data: Any, size: int, where: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.mode == "RGB" and image.size == (size, size):  # before the pixels: a header can claim gigabytes
                return np.asarray(image)
            found = f"{image.mode}, {image.width}x{image.height} pixels"
    except Exception as error:  # Pillow raises errors of many types on bytes that are no image
        raise DamagedFile(f"{where} holds no whole PNG or JPEG image ({error}); download the file again") from error
    raise DamagedFile(f"{where} holds an image that is {found}; expected RGB, {size}x{size} pixels")
