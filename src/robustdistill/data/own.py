"""Anybody's images as a data set, by a path: `imagefolder:PATH`, `parquet:PATH` and `npz:FILE`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from robustdistill.data import decoding, folders, npz, tables
from robustdistill.data.cutting import cut
from robustdistill.data.listing import Listing
from robustdistill.data.mapped import Plan, facts, mapped, picked
from robustdistill.outside import sized
from robustdistill.types import Augment, Dataset, Split, Splits

LOG = logging.getLogger("robustdistill")
Load = Callable[[Path | None], Splits]


def imagefolder(at: str, directory: Path | None = None) -> Dataset:
    """Folders of images, a folder a class, in train/ and test/ or alone; imagefolder:PATH@SIZE fits them to a size."""
    path, size = sized(at)
    return _listed(folders.listing(directory or Path(path)), size)


def parquet(at: str, directory: Path | None = None) -> Dataset:
    """Hugging Face's parquet files, train-*.parquet and test-*.parquet; parquet:PATH@SIZE fits images to a size."""
    path, size = sized(at)
    return _listed(tables.listing(directory or Path(path)), size)


def archive(at: str, directory: Path | None = None) -> Dataset:
    """A NumPy archive of image and label, in the layout of DM-Improves-AT; its classes are numbers."""
    file = directory or Path(at)
    found = npz.contents(file)
    classes = tuple(map(str, range(int(found.labels.max(initial=0)) + 1)))

    def load(_: Path | None) -> Splits:
        return Splits(**_parts(file, found, cut(found.labels, True)))

    return _dataset(load, classes, found.channels, found.size, len(found.labels), file)


def extra(file: Path) -> Split:
    """All images of an `npz` archive, to learn from beside a data set's own."""
    found = npz.contents(file)
    return _parts(file, found, {"extra": range(len(found.labels))})["extra"]


def _listed(found: Listing, size: str) -> Dataset:
    form = found.form(int(size) if size else None)
    images = len(found.train.labels) + (len(found.test.labels) if found.test else 0)
    return _dataset(lambda _: decoding.splits(found, form), found.classes, form.channels, form.size, images, found.path)


def _dataset(load: Load, classes: tuple[str, ...], channels: int, size: int, images: int, path: Path) -> Dataset:
    """With the radius 8/255 up to 64 pixels and 4/255 above, shifts by up to an eighth, and flips in colour."""
    return Dataset(
        load=load,
        classes=classes,
        channels=channels,
        size=size,
        eps="8/255" if size <= 64 else "4/255",
        augment=Augment(pad=size // 8, flip=channels == 3),
        student="rn-18" if size > 16 else "digits-net",
        teacher="",
        needs_dir=True,
        summary=f"{images:,} images of {len(classes)} classes in {path}",
    )


def _parts(file: Path, found: npz.Contents, wanted: Mapping[str, Sequence[int]]) -> dict[str, Split]:
    shape = (found.channels, found.size, found.size)

    def plan(places: Sequence[int]) -> Plan:
        return Plan(found.labels[list(places)], shape, lambda: picked(npz.rows(file), places))

    if len(found.labels) > decoding.MANY:
        LOG.warning("%s: its images are laid out to be mapped into memory, once", file)
    return mapped(facts([file]), {name: plan(places) for name, places in wanted.items()})
