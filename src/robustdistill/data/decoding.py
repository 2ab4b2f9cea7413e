"""A listing's images decoded into mapped files, and cut into what to learn from, to select by and to report on."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustdistill.data.encoded import Form, decode
from robustdistill.data.keys import key
from robustdistill.data.listing import Encoded, Listing, Part, advice
from robustdistill.data.mapped import Plan, Row, facts, mapped
from robustdistill.errors import DamagedFile
from robustdistill.types import Splits

LOG = logging.getLogger("robustdistill")
HOLDOUT, TEST = 25, 5  # one training image in so many, of each class
AT_ONCE = 256  # images that are decoded side by side
TOLD = 3  # bad images that a sentence names
MANY = 5000  # images that take long enough to be announced


def splits(found: Listing, form: Form) -> Splits:
    """The images decoded and cut as `cut` does; a test part that lies beside the training part is taken as it is.

    DamagedFile for images that cannot be decoded or are not alike: the first are named, and nothing is kept of them.
    """
    wanted, shape = cut(found.train.labels, found.test is None), (form.channels, form.size, form.size)
    if len(found.train.labels) > MANY:
        LOG.warning("%s: images are decoded, once", found.path)

    def plan(part: Part, places: Sequence[int]) -> Plan:
        return Plan(part.labels[list(places)], shape, functools.partial(_decoded, part, places, form, found.path))

    parts = {name: plan(found.train, places) for name, places in wanted.items()}
    if found.test:
        parts["test"] = plan(found.test, range(len(found.test.labels)))
    return Splits(**mapped((facts(found.files), form), parts))


def cut(labels: NDArray[np.int64], test: bool) -> dict[str, list[int]]:
    """The places of `labels` `[N]` by what they are for, by a hash of the places alone.

    One in 25 of each class is held out; with `test`, one in 5 is set apart before that. Of a class of two or more, at
    least one each time.
    """
    tests, rest = _share(labels, range(len(labels)), TEST, "test") if test else ([], list(range(len(labels))))
    holdout, train = _share(labels, rest, HOLDOUT, "holdout")
    return {"train": train, "holdout": holdout, **({"test": tests} if test else {})}


def _share(labels: NDArray[np.int64], among: Sequence[int], one_in: int, salt: str) -> tuple[list[int], list[int]]:
    """Of the places `among`, one in `one_in` of each class, and the others; ascending."""
    taken: set[int] = set()
    classes: dict[int, list[int]] = {}
    for place in among:
        classes.setdefault(int(labels[place]), []).append(place)
    for members in classes.values():
        ranked = sorted(members, key=lambda place: key(salt, place))
        taken.update(ranked[: max(len(members) // one_in, len(members) > 1)])
    return sorted(taken), [place for place in among if place not in taken]


def _decoded(part: Part, wanted: Sequence[int], form: Form, path: Path) -> Iterator[Row]:
    """The wanted images, each with its place among them. All are looked at before DamagedFile names the bad ones."""
    places = {row: place for place, row in enumerate(wanted)}
    bad: list[str] = []
    images = ((places[row], image) for row, image in enumerate(part.read()) if row in places)
    with ThreadPoolExecutor() as pool:
        while some := list(islice(images, AT_ONCE)):
            for (place, _), pixels in zip(some, pool.map(_tried(form), [image for _, image in some]), strict=True):
                if isinstance(pixels, str):
                    bad.append(pixels)
                else:
                    yield place, pixels
    if bad:
        more = f"; and {len(bad) - TOLD:,} more" if len(bad) > TOLD else ""
        raise DamagedFile(
            f"{len(bad):,} of {len(wanted):,} images of {path} cannot be used: {'; '.join(bad[:TOLD])}{more}. Repair "
            f"or remove them; if only their sizes or colours differ, {advice(path)}"
        )


def _tried(form: Form) -> Callable[[Encoded], NDArray[np.uint8] | str]:
    def decoded(image: Encoded) -> NDArray[np.uint8] | str:
        try:
            return decode(image.data, form, image.where)
        except DamagedFile as error:
            return str(error)

    return decoded
