"""Where images come from: each function returns a data set cut into train, hold-out and test, once and for all."""

import functools
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from robustdistill.data import cache, cifar_batches, decoding, lying, origins, parquet, tables
from robustdistill.data.arrays import Arrays
from robustdistill.data.cutting import stratified
from robustdistill.data.encoded import Form
from robustdistill.data.origins import Origin
from robustdistill.errors import DamagedFile
from robustdistill.types import OnDisk, Split, Splits

DIGITS = "digits.npz"


def digits(directory: Path | None = None) -> Splits:
    """scikit-learn's handwritten digits: 1,797 images `[1, 8, 8]`, 1,257 train, 180 hold-out, 360 test.

    They ship with the package (see LICENSE-digits.txt); `directory` is not read. Test and hold-out have 36
    and 18 images of each class. A stored value v of 0..16 becomes round(255 v / 16).
    """
    stored = files("robustdistill.data") / DIGITS
    try:
        with stored.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            levels, labels = archive["images"].astype(np.uint16), archive["labels"].astype(np.int64)
    except Exception as error:  # the archive's checksums are read too
        raise DamagedFile(f"{stored} of robustdistill itself is damaged; install robustdistill again") from error
    arrays = Arrays(((levels * 255 + 8) // 16).astype(np.uint8), labels)
    test, holdout, train = stratified(labels, (36, 18), "digits")
    return Splits(train=split(arrays, train), holdout=split(arrays, holdout), test=split(arrays, test))


def digits_here(_: Path | None) -> OnDisk:
    """The digits' file inside the package."""
    stored = Path(str(files("robustdistill.data") / DIGITS))
    return OnDisk(stored.parent, (stored,))


def cifar10(directory: Path | None = None) -> Splits:
    """CIFAR-10: images `[3, 32, 32]`, 48,000 train, 2,000 hold-out (200 a class), 10,000 test.

    `directory` holds Hugging Face's parquet files (`train-*.parquet` and `test-*.parquet`, there or in `data/`
    or `plain_text/`) or torchvision's `cifar-10-batches-py`; without it the data set is downloaded, once (see
    `download.folder`). The hold-out is chosen by row number: the two layouts order their rows differently and so
    hold out different images.

    Raises: UserError when the directory holds neither layout or nothing can be downloaded; DamagedFile for a file
    that cannot be read or holds something else than 32x32 RGB images with labels 0 to 9.
    """
    return _cifar("cifar10", origins.CIFAR10, directory)


def cifar100(directory: Path | None = None) -> Splits:
    """CIFAR-100, its 100 fine classes: images `[3, 32, 32]`, 48,000 train, 2,000 hold-out (20 a class), 10,000 test.

    As `cifar10`, from Hugging Face's parquet files (also in `cifar100/`; labels in a column `fine_label`) or
    torchvision's `cifar-100-python`. Labels are 0 to 99, the classes in alphabetical order; coarse ones are not read.
    """
    return _cifar("cifar100", origins.CIFAR100, directory)


def svhn(directory: Path | None = None) -> Splits:
    """SVHN, its cropped digits: images `[3, 32, 32]`, 70,332 train, 2,925 hold-out (one in 25 a class), 26,032 test.

    From Hugging Face's parquet files as `cifar10`, also in `cropped_digits/`. Labels are the digits; the files
    `extra-*.parquet` of more and easier images are not read. DamagedFile where an image is not 32x32 and RGB.
    """
    return _hub(origins.SVHN, Form(3, 32), directory)


def tiny_imagenet(directory: Path | None = None) -> Splits:
    """Tiny-ImageNet: images `[3, 64, 64]`, 96,000 train, 4,000 hold-out (20 a class), 10,000 test (its `valid`).

    From Hugging Face's parquet files `train-*` and `valid-*`, there or in `data/`. Grey images are made RGB. Labels are
    those of the files, 0 to 199 in their own order. DamagedFile where an image is not 64x64.
    """
    return _hub(origins.TINY_IMAGENET, Form(3, 64, recoloured=True), directory)


def split(arrays: Arrays, indices: NDArray[np.int64] | slice = slice(None)) -> Split:
    """The rows `indices` of `arrays` as tensors."""
    return Split(torch.from_numpy(arrays.images[indices]), torch.from_numpy(arrays.labels[indices]))


def _cifar(name: str, origin: Origin, directory: Path | None) -> Splits:
    train, test = _read(name, origin, lying.found(origin, directory))
    per_class = max(1, len(train.labels) // (25 * origin.classes))
    holdout, rest = stratified(train.labels, (per_class,), name)
    return Splits(train=split(train, rest), holdout=split(train, holdout), test=split(test))


def _read(name: str, origin: Origin, there: lying.Lying) -> tuple[Arrays, Arrays]:
    if there.batched and origin.archive:
        return cifar_batches.read(there.folder, origin.archive.batches)
    read = functools.partial(parquet.read, label=origin.label, classes=origin.classes)
    return cache.cached(name, [*there.train, *there.test], lambda: (read(there.train), read(there.test)))


def _hub(origin: Origin, form: Form, directory: Path | None) -> Splits:
    """A data set that the hub alone has, decoded and cut as anybody's parquet files are."""
    there = lying.found(origin, directory)
    mend = f"Download {origin.title} again, or give another folder of it with --data-dir"
    numbers = tuple(map(str, range(origin.classes)))
    return decoding.splits(tables.listed(there.folder, there.train, there.test, numbers, mend), form)
