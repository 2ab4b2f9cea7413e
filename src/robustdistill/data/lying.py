"""Where the files of a data set by name lie: in the folder that was given, in one of the caches, or nowhere yet."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustdistill.data import download, parquet, tables
from robustdistill.data.origins import Origin
from robustdistill.errors import UserError
from robustdistill.types import OnDisk


class Lying(NamedTuple):
    """The files of train and test in `folder`: parquet, or torchvision's batches where `batched`."""

    folder: Path
    train: Sequence[Path]
    test: Sequence[Path]
    batched: bool = False


def found(origin: Origin, directory: Path | None) -> Lying:
    """The files in `directory`; without it in one of the caches, downloaded there if they are not. UserError if
    `directory` does not hold them.
    """
    return _inside(download.folder(origin) if directory is None else _existing(directory, origin), origin)


def look(origin: Origin, directory: Path | None = None) -> OnDisk | None:
    """What `found` would find; None where it would have to be downloaded first. Opens no file, asks no server."""
    folder = download.found(origin) if directory is None else _existing(directory, origin)
    if folder is None:
        return None
    lying = _inside(folder, origin)
    names = tuple if lying.batched else functools.partial(tables.named, lying.train[0])
    return OnDisk(folder, (*lying.train, *lying.test), names)


def _existing(directory: Path, origin: Origin) -> Path:
    if not directory.is_dir():
        raise UserError(f"there is no folder {directory}; give the one that holds {origin.title} with --data-dir")
    return directory


def _inside(directory: Path, origin: Origin) -> Lying:
    train, test = origin.parts
    folders = [directory / place for place in origin.places]
    folder = next((folder for folder in folders if any(folder.glob(f"{train}-*.parquet"))), folders[0])
    lying = Lying(folder, parquet.shards(folder, train), parquet.shards(folder, test))
    if lying.train and lying.test:
        return lying
    if batched := _batches(directory, origin):
        return batched
    archive = f", and for torchvision's {origin.archive.batches.folder}/" if origin.archive else ""
    raise UserError(
        f"{directory} holds no {origin.title}: looked for {train}-*.parquet and {test}-*.parquet, there and in "
        f"{'/ and '.join(origin.places[1:])}/{archive}; give another folder with --data-dir"
    )


def _batches(directory: Path, origin: Origin) -> Lying | None:
    if origin.archive is None:
        return None
    layout = origin.archive.batches
    for folder in (directory, directory / layout.folder):
        if (folder / layout.test).is_file():
            return Lying(folder, [folder / name for name in layout.train], [folder / layout.test], batched=True)
    return None
