"""Where images come from: each function returns a data set cut into train, hold-out and test, once and for all."""

import functools
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from robustdistill.data import cache, cifar_batches, download, parquet
from robustdistill.data.arrays import Arrays
from robustdistill.data.cutting import stratified
from robustdistill.errors import DamagedFile, UserError
from robustdistill.types import Split, Splits


def digits(directory: Path | None = None) -> Splits:
    """scikit-learn's handwritten digits: 1,797 images `[1, 8, 8]`, 1,257 train, 180 hold-out, 360 test.

    They ship with the package (see LICENSE-digits.txt); `directory` is not read. Test and hold-out have 36
    and 18 images of each class. A stored value v of 0..16 becomes round(255 v / 16).
    """
    stored = files("robustdistill.data") / "digits.npz"
    try:
        with stored.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            levels, labels = archive["images"].astype(np.uint16), archive["labels"].astype(np.int64)
    except Exception as error:  # the archive's checksums are read too
        raise DamagedFile(f"{stored} of robustdistill itself is damaged; install robustdistill again") from error
    arrays = Arrays(((levels * 255 + 8) // 16).astype(np.uint8), labels)
    test, holdout, train = stratified(labels, (36, 18), "digits")
    return Splits(train=split(arrays, train), holdout=split(arrays, holdout), test=split(arrays, test))


def cifar10(directory: Path | None = None) -> Splits:
    """CIFAR-10: images `[3, 32, 32]`, 48,000 train, 2,000 hold-out (200 a class), 10,000 test.

    `directory` holds Hugging Face's parquet files (`train-*.parquet` and `test-*.parquet`, there or in `data/`
    or `plain_text/`) or torchvision's `cifar-10-batches-py`; without it the data set is downloaded, once (see
    `download.folder`). The hold-out is chosen by row number: the two layouts order their rows differently and so
    hold out different images.

    Raises: UserError when the directory holds neither layout or nothing can be downloaded; DamagedFile for a file
    that cannot be read or holds something else than 32x32 RGB images with labels 0 to 9.
    """
    return _cifar("cifar10", _CIFAR10, directory)


def cifar100(directory: Path | None = None) -> Splits:
    """CIFAR-100, its 100 fine classes: images `[3, 32, 32]`, 48,000 train, 2,000 hold-out (20 a class), 10,000 test.

    As `cifar10`, from Hugging Face's parquet files (also in `cifar100/`; labels in a column `fine_label`) or
    torchvision's `cifar-100-python`. Labels are 0 to 99, the classes in alphabetical order; coarse ones are not read.
    """
    return _cifar("cifar100", _CIFAR100, directory)


def look(name: str, directory: Path | None) -> Path | None:
    """The folder from which `cifar10` or `cifar100` would read; None where it would have to be downloaded first.

    No file is opened. Raises UserError as they do for a `directory` that does not hold the data set.
    """
    layout = {"cifar10": _CIFAR10, "cifar100": _CIFAR100}[name]
    folder = download.found(layout.origin) if directory is None else _existing(directory, layout.origin)
    if folder is not None:
        _located(layout, folder)
    return folder


def split(arrays: Arrays, indices: NDArray[np.int64] | slice = slice(None)) -> Split:
    """The rows `indices` of `arrays` as tensors."""
    return Split(torch.from_numpy(arrays.images[indices]), torch.from_numpy(arrays.labels[indices]))


class _Layout(NamedTuple):
    """How one of the CIFARs is laid out as parquet (places in the folder, column of labels), and whence it comes."""

    places: tuple[str, ...]
    label: str
    origin: download.Origin

    @property
    def batches(self) -> cifar_batches.Layout:
        return self.origin.batches


_CIFAR10 = _Layout((".", "data", "plain_text"), "label", download.CIFAR10)
_CIFAR100 = _Layout((".", "data", "cifar100"), "fine_label", download.CIFAR100)


def _cifar(name: str, layout: _Layout, directory: Path | None) -> Splits:
    train, test = _read(name, layout, _existing(directory, layout.origin))
    per_class = max(1, len(train.labels) // (25 * layout.batches.classes))
    holdout, rest = stratified(train.labels, (per_class,), name)
    return Splits(train=split(train, rest), holdout=split(train, holdout), test=split(test))


def _existing(directory: Path | None, origin: download.Origin) -> Path:
    if directory is None:
        return download.folder(origin)
    if not directory.is_dir():
        raise UserError(f"there is no folder {directory}; give the one that holds {origin.title} with --data-dir")
    return directory


def _read(name: str, layout: _Layout, directory: Path) -> tuple[Arrays, Arrays]:
    found = _located(layout, directory)
    if isinstance(found, Path):
        return cifar_batches.read(found, layout.batches)
    train, test = found
    read = functools.partial(parquet.read, label=layout.label, classes=layout.batches.classes)
    return cache.cached(name, train + test, lambda: (read(train), read(test)))


def _located(layout: _Layout, directory: Path) -> tuple[list[Path], list[Path]] | Path:
    """The shards of train and test in `directory`, or the folder of torchvision's batches there."""
    batches = layout.batches
    train, test = _shards([directory / place for place in layout.places])
    if train and test:
        return train, test
    for folder in (directory, directory / batches.folder):
        if (folder / batches.test).is_file():
            return folder
    raise UserError(
        f"{directory} holds no {batches.title}: looked for train-*.parquet and test-*.parquet, there and in "
        f"{'/ and '.join(layout.places[1:])}/, and for torchvision's {batches.folder}/; "
        "give another folder with --data-dir"
    )


def _shards(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    folder = next((folder for folder in folders if any(folder.glob("train-*.parquet"))), folders[0])
    return parquet.shards(folder, "train"), parquet.shards(folder, "test")
