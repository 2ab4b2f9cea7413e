"""Data sets: their images, and what they own of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images as uint8 `[N, C, H, W]` and labels as int64 `[N]`, on the CPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Splits:
    """A data set, cut once and for all: `train` to learn from, `holdout` to select by, `test` to report; `extra`
    images, if there are any, are learned from beside `train`.
    """

    train: Split
    holdout: Split
    test: Split
    extra: Split | None = None


@dataclass(frozen=True)
class Augment:
    """Random crop after zero-padding by `pad` pixels (a shift by at most `pad`), and horizontal flip."""

    pad: int = 0
    flip: bool = False


@dataclass(frozen=True)
class OnDisk:
    """A data set as it lies on this disk: its folder, the files that are read, and `names()`, what these call the
    classes, () where they do not say.
    """

    folder: Path
    files: tuple[Path, ...]
    names: Callable[[], tuple[str, ...]] = tuple


@dataclass(frozen=True)
class Dataset:
    """A data set and what it owns of a run: radius, augmentation, default student and teacher ("" for none).

    `needs_dir`: `load` takes the folder that holds the images. `downloads`: without that folder it downloads them;
    how many it then returns, (train, hold-out, test), is known to a dry run, which downloads nothing. `megabytes`: how
    much it downloads. `images`: how many there are where nothing is downloaded. `look` finds what `load` would read,
    None where that had to be downloaded first; UserError for a folder without it. It opens no file.
    """

    load: Callable[[Path | None], Splits]
    classes: tuple[str, ...]
    channels: int
    size: int
    eps: float | str
    augment: Augment
    student: str
    teacher: str
    needs_dir: bool = False
    downloads: tuple[int, int, int] | None = None
    megabytes: int | None = None
    images: tuple[int, int, int] | None = None
    look: Callable[[Path | None], OnDisk | None] | None = None
    summary: str = ""
    licence: str = ""

    @property
    def sizes(self) -> dict[str, int]:
        """What a network for its images must know: the numbers of classes and channels, and the side in pixels."""
        return {"classes": len(self.classes), "channels": self.channels, "size": self.size}

    def layer(self) -> dict[str, Any]:
        """What the data set decides, as a layer of a run spec."""
        return {
            "data": {"augment": {"pad": self.augment.pad, "flip": self.augment.flip}},
            "eps": self.eps,
            "student": {"name": self.student},
            "teachers": {"robust": {"name": self.teacher}} if self.teacher else {},
        }


@dataclass(frozen=True)
class DatasetAt:
    """Somebody's own images as a data set, registered under a name such as "imagefolder:{path}".

    `find(text, folder)` is given what stands for {path} in the name, and the folder of --data-dir, if there is one.
    """

    find: Callable[[str, Path | None], Dataset]
    summary: str = ""
