"""CIFAR-10 and CIFAR-100 in torchvision's layout: Python pickles, read without running what they say.

A pickle is a program. This reader lets it build strings, numbers, lists, dicts and arrays of bytes, and nothing else:
NumPy's constructors are replaced by stand-ins, since even those can be misled by a forged dtype.
"""

import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustdistill.data.arrays import Arrays, checked_labels, joined, shown
from robustdistill.errors import DamagedFile, UserError


class Layout(NamedTuple):
    """A data set's own name, its folder, the files of train and test there, and the labels' key and number."""

    title: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: str
    classes: int


CIFAR10 = Layout(
    "CIFAR-10", "cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "labels", 10
)
CIFAR100 = Layout("CIFAR-100", "cifar-100-python", ("train",), "test", "fine_labels", 100)


def read(folder: Path, layout: Layout) -> tuple[Arrays, Arrays]:
    """Train and test from the files of `layout` in `folder`: RGB images `[N, 3, 32, 32]`, labels below its number.

    Raises: UserError when a file is missing; DamagedFile naming the file when it is no batch of this data set,
    asks for anything but plain data, or has labels out of range.
    """
    missing = [name for name in (*layout.train, layout.test) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}; unpack the whole archive of {layout.title} there")
    train = joined([_read_batch(folder / name, layout) for name in layout.train])
    return train, _read_batch(folder / layout.test, layout)


def _read_batch(path: Path, layout: Layout) -> Arrays:
    content = _unpickle(path, layout.title)
    match content:
        case {"data": _Array(pixels=pixels), layout.labels: list(values)}:
            labels = checked_labels(values, layout.classes, path)
        case _:
            raise DamagedFile(
                f"{path} is no batch of {layout.title}: expected a dict of an array `data` and a list `{layout.labels}`"
            )
    if pixels.shape != (len(labels), 3 * 32 * 32):
        raise DamagedFile(f"{path} has images of shape {pixels.shape} for {len(labels)} labels; expected (N, 3072)")
    return Arrays(pixels.reshape(-1, 3, 32, 32), labels)


def _unpickle(path: Path, title: str) -> Any:
    try:
        return _PlainData(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except _Refused as error:
        raise DamagedFile(
            f"{path} asks for {error}, which a batch of {title} has no use for; nothing of it was run. "
            f"Download {title} again from a source you trust"
        ) from error
    except Exception as error:  # pickle raises errors of nearly any type on damaged bytes
        raise DamagedFile(f"{path} cannot be read as a batch of {title} ({error}); download it again") from error


class _Refused(Exception):
    """Its message is what the pickle asked for."""


class _DType:
    """Stands in for numpy.dtype: bytes are the only type there is."""

    def __init__(self, code: str, *_: Any) -> None:
        if code != "u1":
            raise _Refused(f"an array of type {shown(code)}")

    def __setstate__(self, _: Any) -> None:
        pass


class _Array:
    """Stands in for numpy.ndarray."""

    pixels: NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, _, fortran, raw = state
        pixels = np.frombuffer(_bytes(raw), np.uint8)
        self.pixels = pixels.reshape(shape, order="F" if fortran else "C").copy()


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _bytes(text: str | bytes, *_: Any) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin1")  # Python 2's bytes arrive as text


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _bytes,
}


class _PlainData(pickle._Unpickler):
    """Python's own unpickler and not the C one, which sets memory aside for as many values as a forged number says."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None
