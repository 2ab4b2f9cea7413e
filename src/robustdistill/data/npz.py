"""NumPy archives in the layout of DM-Improves-AT: `image`, uint8 `[N, S, S, C]`, and `label`, integers `[N]`.

Such an archive cannot be mapped into memory and may be larger than it: it is read once from end to end, some images at
a time, into the files of `mapped`.
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustdistill.data.encoded import MODES
from robustdistill.errors import DamagedFile, RobustDistillError, UserError

IMAGES, LABELS = "image.npy", "label.npy"
AT_ONCE = 1024
UNFOLDS = 50  # images do not become so much smaller in an archive


class Contents(NamedTuple):
    """What an archive says of itself: labels int64 `[N]`, and the size and colours of its images."""

    labels: NDArray[np.int64]
    size: int
    channels: int


def contents(path: Path) -> Contents:
    """Labels and shape, from the head of the archive. UserError where there is none; DamagedFile for another layout."""
    with _archive(path) as archive:
        with archive.open(IMAGES) as stream:
            shape = _shape(stream)
        with archive.open(LABELS) as stream:
            labels = np.lib.format.read_array(stream, allow_pickle=False)
        if labels.shape != shape[:1] or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
            raise ValueError(f"its labels are {labels.dtype} {list(labels.shape)}, not {shape[0]:,} integers from 0 on")
    return Contents(labels.astype(np.int64), shape[1], shape[3])


def rows(path: Path) -> Iterator[NDArray[np.uint8]]:
    """The images `[C, S, S]`, one after the other. DamagedFile where the archive is cut or was changed."""
    with _archive(path) as archive, archive.open(IMAGES) as stream:
        shape = _shape(stream)
        for start in range(0, shape[0], AT_ONCE):
            n = min(AT_ONCE, shape[0] - start)
            wanted = n * int(np.prod(shape[1:]))
            data = stream.read(wanted)
            if len(data) != wanted:
                raise ValueError("it is cut short")
            yield from np.frombuffer(data, np.uint8).reshape(n, *shape[1:]).transpose(0, 3, 1, 2)
        stream.read(1)  # the end: here its checksum is compared


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An open archive; what goes wrong with it in the block is a DamagedFile."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; write --data npz:FILE")
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {entry.filename: entry.file_size for entry in archive.infolist()}
            if missing := {IMAGES, LABELS} - parts.keys():
                held = ", ".join(sorted(parts)[:4]) or "nothing"
                raise ValueError(f"it lacks {', '.join(sorted(missing))} and holds {held}")
            if sum(parts.values()) > UNFOLDS * path.stat().st_size:
                raise ValueError(f"it would unfold to {sum(parts.values()) / 1e9:,.3g} GB, which images never do")
            yield archive
    except RobustDistillError:
        raise
    except OSError:
        raise
    except Exception as error:  # what a garbled archive raises depends on where it is garbled
        raise DamagedFile(
            f"{path} holds no images in the layout of DM-Improves-AT ({error}); expected an .npz with image, uint8 "
            "[N, S, S, C], and label, [N]"
        ) from error


def _shape(stream: IO[bytes]) -> tuple[int, ...]:
    version = np.lib.format.read_magic(stream)
    read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype != np.uint8 or fortran or len(shape) != 4 or shape[1] != shape[2] or shape[3] not in MODES:
        raise ValueError(f"its images are {dtype} {list(shape)}")
    return tuple(shape)
