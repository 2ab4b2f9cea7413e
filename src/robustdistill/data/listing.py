"""What a folder of somebody's images holds, found before one of them is decoded."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustdistill.data.encoded import MODES, Form, Header, header
from robustdistill.errors import DamagedFile, UserError

LOOKED_AT = 64  # images, before all are read: what most of them are, all are to be
TESTS = ("test", "val", "valid", "validation")
"""What the part to be judged on may be called."""


class Encoded(NamedTuple):
    """An image as it lies there, and where: the beginning of a sentence on it."""

    where: str
    data: bytes


@dataclass(frozen=True)
class Part:
    """Images and their labels, int64 `[N]`; `read()` gives the images in the order of the labels."""

    labels: NDArray[np.int64]
    read: Callable[[], Iterator[Encoded]]


@dataclass(frozen=True)
class Listing:
    """A data set as it lies on disk. `test` is None where nothing was set apart; `files` are all that it is made of;
    `mend` is what to do where some of its images cannot be used, if that is not to mend them.
    """

    path: Path
    classes: tuple[str, ...]
    train: Part
    test: Part | None
    files: Sequence[Path]
    mend: str = ""

    def form(self, size: int | None) -> Form:
        """How the images are to be: fitted to `size` in RGB, or as most of the first ones are, which must be square."""
        if size is not None:
            return Form(3, size, fitted=True)
        found, where = commonest(islice(self.train.read(), LOOKED_AT))
        channels = {mode: channels for channels, mode in MODES.items()}.get(found.mode)
        if channels is None or found.width != found.height:
            raise UserError(f"{where} is {found}, not square and grey or RGB: {advice(self.path)}")
        return Form(channels, found.width)


def commonest(images: Iterable[Encoded]) -> tuple[Header, str]:
    """What most of them are, and where the first of these is. DamagedFile if none is whole."""
    found: dict[Header, list[str]] = {}
    damage: DamagedFile | None = None
    for image in images:
        try:
            found.setdefault(header(image.data, image.where), []).append(image.where)
        except DamagedFile as error:
            damage = damage or error
    if not found:
        raise damage or DamagedFile("there are no images")
    kind = max(found, key=lambda kind: len(found[kind]))
    return kind, found[kind][0]


def advice(path: Path) -> str:
    """What to do where images are not all alike."""
    return f"put a size behind the folder, {path.name}@224, and all are scaled, cut square and made RGB"
