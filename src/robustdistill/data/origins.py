"""What the data sets by name are made of: files on the Hugging Face hub, and the archives of the CIFARs' authors."""

from pathlib import PurePosixPath
from typing import NamedTuple

from robustdistill.data import cifar_batches


class Archive(NamedTuple):
    """An archive at its authors': torchvision's class for it, its megabytes, and what it unpacks to."""

    loader: str
    megabytes: int
    batches: cifar_batches.Layout


class Origin(NamedTuple):
    """A data set's own name; its repository on the hub, the files of train and test there, their rows and megabytes.

    The files' labels are integers below `classes` in the column `label`. Without an `archive` the hub alone has it.
    """

    title: str
    repo: str
    files: tuple[str, str]
    rows: tuple[int, int]
    megabytes: int
    classes: int
    label: str = "label"
    archive: Archive | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """Where in a folder the files may lie: there, in `data`, or as they do in the repository."""
        return tuple(dict.fromkeys((".", "data", str(PurePosixPath(self.files[0]).parent))))

    @property
    def parts(self) -> tuple[str, str]:
        """What the names of the files of train and test begin with."""
        train, test = (PurePosixPath(file).name.partition("-")[0] for file in self.files)
        return train, test


def _files(place: str) -> tuple[str, str]:
    return f"{place}/train-00000-of-00001.parquet", f"{place}/test-00000-of-00001.parquet"


CIFAR10 = Origin(
    "CIFAR-10",
    "uoft-cs/cifar10",
    _files("plain_text"),
    (50_000, 10_000),
    144,
    10,
    archive=Archive("CIFAR10", 170, cifar_batches.CIFAR10),
)
CIFAR100 = Origin(
    "CIFAR-100",
    "uoft-cs/cifar100",
    _files("cifar100"),
    (50_000, 10_000),
    143,
    100,
    label="fine_label",
    archive=Archive("CIFAR100", 169, cifar_batches.CIFAR100),
)
SVHN = Origin("SVHN", "ufldl-stanford/svhn", _files("cropped_digits"), (73_257, 26_032), 183, 10)
TINY_IMAGENET = Origin(
    "Tiny-ImageNet",
    "zh-plus/tiny-imagenet",
    ("data/train-00000-of-00001-1359597a978bc4fa.parquet", "data/valid-00000-of-00001-70d52db3c749a935.parquet"),
    (100_000, 10_000),
    161,
    200,
)
