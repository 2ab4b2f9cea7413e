"""Teachers by name and data set: a name may mean one network for each data set."""

from collections.abc import Iterable
from typing import NoReturn

from robustdistill.errors import PluginError, UserError
from robustdistill.registry import Registry


def called(name: str, registry: Registry) -> dict[str, str]:
    """The teachers that `name` may mean: their registered names, by data set.

    The one that is registered under this name goes before those that are only called so. PluginError if two others of
    one data set are called so.
    """
    teachers = registry.units("teacher")
    own = {teachers[name].dataset: name} if name in teachers else {}
    found: dict[str, str] = dict(own)
    for key, teacher in teachers.items():
        if key != name and name in teacher.names and teacher.dataset not in own:
            if other := found.get(teacher.dataset):
                both = " and ".join(f"{k!r} of {registry.entry('teacher', k).origin}" for k in (other, key))
                raise PluginError(f"{name!r} means two teachers for {teacher.dataset}: {both}; use those names")
            found[teacher.dataset] = key
    return found


def registered(name: str, data: str, registry: Registry) -> str:
    """`name` as it is registered for the data set `data`; `NAME@FILE` too, where NAME is no architecture.

    What names no teacher of that data set is left as it is.
    """
    head, at, file = name.partition("@")
    if at and registry.knows("model", head):
        return name
    return called(head, registry).get(data, head) + at + file


def dataset_of(names: Iterable[str], registry: Registry) -> str | None:
    """The data set that teachers, `NAME` or `NAME@FILE`, imply together; None if no name is known.

    UserError if they may mean several.
    """
    heads = [name.partition("@")[0] for name in names]
    may = {head: found for head in heads if (found := called(head, registry))}
    if not may:
        return None
    shared = [data for data in next(iter(may.values())) if all(data in found for found in may.values())]
    shared = shared or list(next(iter(may.values())))[:1]  # they do not go together, which is said later
    if len(shared) > 1:
        head, found = next(iter(may.items()))
        each = " and ".join(f"{data} ({found[data]})" for data in shared)
        flags = " or ".join(f"--data {data}" for data in shared)
        raise UserError(f"{head!r} is a teacher for {each}: name the data set, {flags}")
    return shared[0]


def embedded(role: str, data: str, registry: Registry) -> str:
    """The teacher of a data set that comes in a package, called after `role`: "digits-clean"; "" if there is none."""
    teachers = registry.units("teacher").items()
    return next((n for n, t in teachers if t.path and t.dataset == data and n.endswith(f"-{role}")), "")


def refuse_other_data(name: str, data: str, registry: Registry) -> NoReturn:
    """UserError for the name of a teacher that was trained on other data, or of none at all."""
    arch = registry.knows("model", name)
    if others := called(name, registry):
        file = f"; another network of that architecture takes its file, {name}@FILE" if arch else ""
        raise UserError(f"teacher {name!r} was trained on {' and '.join(others)}; the run's data is {data}{file}")
    if arch:
        raise UserError(f"{name!r} is an architecture, not a trained teacher: give its file, {name}@FILE")
    raise registry.unknown("teacher", name, " A file of weights works too.")
