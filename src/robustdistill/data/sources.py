"""Where images come from: each function returns a data set cut into train, hold-out and test, once and for all."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from robustdistill.data import cache, cifar_batches, parquet
from robustdistill.data.arrays import Arrays
from robustdistill.data.keys import key
from robustdistill.errors import UserError
from robustdistill.types import Split, Splits


def digits(directory: Path | None = None) -> Splits:
    """scikit-learn's handwritten digits: 1,797 images `[1, 8, 8]`, 1,257 train, 180 hold-out, 360 test.

    They ship with the package (see LICENSE-digits.txt); `directory` is not read. Test and hold-out have 36
    and 18 images of each class. A stored value v of 0..16 becomes round(255 v / 16).
    """
    stored = files("robustdistill.data") / "digits.npz"
    with stored.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        levels, labels = archive["images"].astype(np.uint16), archive["labels"].astype(np.int64)
    arrays = Arrays(((levels * 255 + 8) // 16).astype(np.uint8), labels)
    test, holdout, train = stratified(labels, (36, 18), "digits")
    return Splits(train=split(arrays, train), holdout=split(arrays, holdout), test=split(arrays, test))


def cifar10(directory: Path | None = None) -> Splits:
    """CIFAR-10: images `[3, 32, 32]`, 48,000 train, 2,000 hold-out (200 a class), 10,000 test.

    `directory` holds Hugging Face's parquet files (`train-*.parquet` and `test-*.parquet`, there or in `data/`
    or `plain_text/`) or torchvision's `cifar-10-batches-py`. The hold-out is chosen by row number: the two
    layouts order their rows differently and so hold out different images.

    Raises: UserError without a directory or when it holds neither layout; DamagedFile for a file that cannot
    be read or holds something else than 32x32 RGB images with labels 0 to 9.
    """
    train, test = _cifar10(_existing(directory))
    holdout, rest = stratified(train.labels, (max(1, len(train.labels) // 250),), "cifar10")
    return Splits(train=split(train, rest), holdout=split(train, holdout), test=split(test))


def stratified(labels: NDArray[np.int64], per_class: Sequence[int], salt: str) -> list[NDArray[np.int64]]:
    """Cuts the indices of `labels` `[N]` into parts with `per_class[i]` of each class, and a part for the rest.

    Within a class, indices are ranked by `key(salt, index)`: a rule that no library version can change.
    Returns `len(per_class) + 1` ascending index arrays.
    """
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(len(per_class) + 1)]
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=lambda index: key(salt, index))
        for part, some in zip(parts, np.split(np.array(members), np.cumsum(per_class)), strict=True):
            part.append(some)
    return [np.sort(np.concatenate(part)) for part in parts]


def split(arrays: Arrays, indices: NDArray[np.int64] | slice = slice(None)) -> Split:
    """The rows `indices` of `arrays` as tensors."""
    return Split(torch.from_numpy(arrays.images[indices]), torch.from_numpy(arrays.labels[indices]))


def _existing(directory: Path | None) -> Path:
    if directory is None:
        raise UserError("CIFAR-10 does not ship with robustdistill; give the folder that holds it with --data-dir")
    if not directory.is_dir():
        raise UserError(f"there is no folder {directory}; give the one that holds CIFAR-10 with --data-dir")
    return directory


def _cifar10(directory: Path) -> tuple[Arrays, Arrays]:
    train, test = _shards(directory)
    if train and test:
        return cache.cached("cifar10", train + test, lambda: (parquet.read(train), parquet.read(test)))
    for folder in (directory, directory / cifar_batches.FOLDER):
        if (folder / cifar_batches.TEST).is_file():
            return cifar_batches.read(folder)
    raise UserError(
        f"{directory} holds no CIFAR-10: looked for train-*.parquet and test-*.parquet, there and in data/ and "
        f"plain_text/, and for torchvision's {cifar_batches.FOLDER}/; give another folder with --data-dir"
    )


def _shards(directory: Path) -> tuple[list[Path], list[Path]]:
    folders = (directory, directory / "data", directory / "plain_text")
    folder = next((folder for folder in folders if any(folder.glob("train-*.parquet"))), directory)
    return parquet.shards(folder, "train"), parquet.shards(folder, "test")
