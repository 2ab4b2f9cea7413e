"""A listing's images decoded into mapped files, and cut into what to learn from, to select by and to report on."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from robustdistill.data.cutting import cut
from robustdistill.data.encoded import Form, decode
from robustdistill.data.listing import Encoded, Listing, Part, advice
from robustdistill.data.mapped import Plan, Row, facts, mapped, picked
from robustdistill.errors import DamagedFile
from robustdistill.types import Splits

LOG = logging.getLogger("robustdistill")
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
        return Plan(part.labels[list(places)], shape, functools.partial(_decoded, part, places, form, found))

    parts = {name: plan(found.train, places) for name, places in wanted.items()}
    if found.test:
        parts["test"] = plan(found.test, range(len(found.test.labels)))
    return Splits(**mapped((facts(found.files), form), parts))


def _decoded(part: Part, wanted: Sequence[int], form: Form, found: Listing) -> Iterator[Row]:
    """The wanted images, each with its place among them. All are looked at before DamagedFile names the bad ones."""
    bad: list[str] = []
    images = picked(part.read(), wanted)
    with ThreadPoolExecutor() as pool:
        while some := list(islice(images, AT_ONCE)):
            for (place, _), pixels in zip(some, pool.map(_tried(form), [image for _, image in some]), strict=True):
                if isinstance(pixels, str):
                    bad.append(pixels)
                else:
                    yield place, pixels
    if bad:
        more = f"; and {len(bad) - TOLD:,} more" if len(bad) > TOLD else ""
        alike = f"Repair or remove them; if only their sizes or colours differ, {advice(found.path)}"
        told = f"{len(bad):,} of {len(wanted):,} images of {found.path} cannot be used: {'; '.join(bad[:TOLD])}{more}"
        raise DamagedFile(f"{told}. {found.mend or alike}")


def _tried(form: Form) -> Callable[[Encoded], NDArray[np.uint8] | str]:
    def decoded(image: Encoded) -> NDArray[np.uint8] | str:
        try:
            return decode(image.data, form, image.where)
        except DamagedFile as error:
            return str(error)

    return decoded
