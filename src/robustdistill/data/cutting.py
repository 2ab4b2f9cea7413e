"""Which images are for what: cut class by class, by a hash of their places that no library version can change."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from robustdistill.data.keys import key

HOLDOUT, TEST = 25, 5  # one image in so many, of each class


def stratified(labels: NDArray[np.int64], per_class: Sequence[int], salt: str) -> list[NDArray[np.int64]]:
    """Cuts the indices of `labels` `[N]` into parts with `per_class[i]` of each class, and a part for the rest.

    Within a class, indices are ranked by `key(salt, index)`. Returns `len(per_class) + 1` ascending index arrays.
    """
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(len(per_class) + 1)]
    for members in _ranked(labels, range(len(labels)), salt):
        for part, some in zip(parts, np.split(np.array(members), np.cumsum(per_class)), strict=True):
            part.append(some)
    return [np.sort(np.concatenate(part)) for part in parts]


def cut(labels: NDArray[np.int64], test: bool) -> dict[str, list[int]]:
    """The places of `labels` `[N]` by what they are for.

    One in 25 of each class is held out; with `test`, one in 5 is set apart before that. Of a class of two or more, at
    least one each time.
    """
    tests, rest = _share(labels, range(len(labels)), TEST, "test") if test else ([], list(range(len(labels))))
    holdout, train = _share(labels, rest, HOLDOUT, "holdout")
    return {"train": train, "holdout": holdout, **({"test": tests} if test else {})}


def _share(labels: NDArray[np.int64], among: Sequence[int], one_in: int, salt: str) -> tuple[list[int], list[int]]:
    """Of the places `among`, one in `one_in` of each class, and the others; ascending."""
    taken: set[int] = set()
    for members in _ranked(labels, among, salt):
        taken.update(members[: max(len(members) // one_in, len(members) > 1)])
    return sorted(taken), [place for place in among if place not in taken]


def _ranked(labels: NDArray[np.int64], among: Iterable[int], salt: str) -> Iterator[list[int]]:
    """The places `among` of each class in turn, by `key(salt, place)`."""
    classes: dict[int, list[int]] = {}
    for place in among:
        classes.setdefault(int(labels[place]), []).append(place)
    for label in sorted(classes):
        yield sorted(classes[label], key=lambda place: key(salt, place))
