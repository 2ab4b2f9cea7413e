"""Folders of images, one folder a class: `train/CLASS/...` and `test/CLASS/...`, or `CLASS/...` alone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from robustdistill.data.encoded import ENDINGS
from robustdistill.data.listing import TESTS, Encoded, Listing, Part
from robustdistill.errors import UserError


def listing(path: Path) -> Listing:
    """The images of `path`: in `train/` and `test/` (or `val/`), else in folders of classes that lie there themselves.

    Classes are the folders' names, sorted; images lie anywhere below. UserError where none are found, where a class has
    no images, or where the test part has a class that the training part lacks.
    """
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; write --data imagefolder:FOLDER")
    split = (path / "train").is_dir()
    train = _classes(path / "train" if split else path)
    held = next((path / name for name in TESTS if split and (path / name).is_dir()), None)
    test = _classes(held) if held else {}
    if held and (extra := [name for name in test if name not in train]):
        raise UserError(f"{held} has {_some(extra)}, which {path / 'train'} lacks: both need the same classes")
    names = list(train)
    files = [file for part in (train, test) for found in part.values() for file in found]
    return Listing(path, tuple(names), part(names, train), part(names, test) if held else None, files)


def part(names: Sequence[str], files: Mapping[str, Sequence[Path]]) -> Part:
    """The files of each class as a part of a data set."""
    flat = [file for name in names for file in files.get(name, ())]
    labels = np.repeat(np.arange(len(names)), [len(files.get(name, ())) for name in names])

    def read() -> Iterator[Encoded]:
        return (Encoded(str(file), file.read_bytes()) for file in flat)

    return Part(labels, read)


def _classes(folder: Path) -> dict[str, list[Path]]:
    folders = sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    if len(folders) < 2:
        raise UserError(f"{folder} holds {len(folders)} folders of classes, and at least 2 are needed: CLASS/image.png")
    found = {f.name: images(f) for f in folders}
    if empty := [name for name, files in found.items() if not files]:
        raise UserError(f"{folder} has classes without images ({_some(empty)}): delete these folders or fill them")
    return found


def images(folder: Path) -> list[Path]:
    """The files below `folder` that are images by their endings, sorted."""
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS and not f.name.startswith("."))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
