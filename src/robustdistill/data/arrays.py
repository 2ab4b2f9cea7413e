"""Images and labels as a reader returns them, before they are cut into splits."""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustdistill.errors import DamagedFile


class Arrays(NamedTuple):
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def joined(parts: Sequence[Arrays]) -> Arrays:
    """The rows of all `parts`, in order."""
    return Arrays(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


def shown(value: Any) -> str:
    """A value of a file in a sentence, short; of a list, which may hold itself a million times, its kind alone."""
    plain = isinstance(value, int | float | str | bytes | None)
    return reprlib.repr(value) if plain else f"of a {type(value).__name__}"


def checked_labels(values: Sequence[Any], classes: int, file: Path) -> NDArray[np.int64]:
    """`values` as int64 `[N]`. Raises DamagedFile at the first that is no integer from 0 to classes - 1."""
    for row, value in enumerate(values):
        if not (isinstance(value, int) and 0 <= value < classes):
            raise DamagedFile(
                f"row {row} of {file} has the label {shown(value)}; expected an integer from 0 to {classes - 1}"
            )
    return np.array(values, dtype=np.int64)
