"""A teacher's file: from its place on this disk, else downloaded there, once, and only if it is what it should be."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from robustdistill.errors import DamagedFile, RobustDistillError, UnsafeFile, UserError
from robustdistill.store.atomic import sha256, sync
from robustdistill.store.formats import WEB_PAGE
from robustdistill.types import Teacher
from robustdistill.zoo import answers, http, hub
from robustdistill.zoo.place import place, record, recorded

LOG = logging.getLogger("robustdistill")
Reader = Callable[[Path], object]


def missing(name: str, teacher: Teacher) -> bool:
    """Whether the file of the teacher registered as `name` has to be downloaded first."""
    return teacher.path is None and bool(teacher.sources) and not place(name, teacher).exists()


def refuse_offline(name: str, teacher: Teacher) -> None:
    """UserError if HF_HUB_OFFLINE forbids the download."""
    if hub.offline():
        raise UserError(
            f"teacher {name!r} was not downloaded before, and HF_HUB_OFFLINE forbids it now; unset it, or "
            f"{_by_hand(name, teacher)}"
        )


def fetched(name: str, teacher: Teacher, read: Reader) -> Path:
    """The file of the teacher registered as `name`, downloaded if it is not there; of several processes by one.

    The sources are tried in turn. A download gets its place in one step, after its size and SHA-256 were compared with
    what is known, and `read` did not raise DamagedFile. One that has no SHA-256 to compare gets its own on record,
    which is said. Raises UserError where no source gives a file and DamagedFile where one gives another, each source
    with its sentence; OSError for a full disk.
    """
    path = place(name, teacher)
    if not missing(name, teacher):
        return path
    refuse_offline(name, teacher)
    path.parent.mkdir(parents=True, exist_ok=True)
    with hub.one_at_a_time(path.with_name(f"{path.name}.lock"), f"teacher {name} is to be downloaded"):
        if missing(name, teacher):
            _from_any(name, teacher, path, read)
    return path


def _from_any(name: str, teacher: Teacher, path: Path, read: Reader) -> None:
    failures: list[RobustDistillError] = []
    for source in teacher.sources:
        size = f" ({teacher.size / 1e6:,.0f} MB)" if teacher.size else ""
        LOG.warning("downloading teacher %s%s from %s to %s, once", name, size, hub.host(source), path)
        try:
            return _from_one(source, teacher, path, read)
        except RobustDistillError as failure:
            failures.append(failure)
    kind = DamagedFile if any(isinstance(f, DamagedFile) for f in failures) else UserError
    told = "; ".join(map(str, failures))
    raise kind(f"teacher {name!r} cannot be downloaded: {told}. By hand: {_by_hand(name, teacher)}")


def _from_one(source: str, teacher: Teacher, path: Path, read: Reader) -> None:
    part, url = path.with_name(f"{path.name}.part"), hub.address(source)
    known = teacher.sha256 or recorded(path)
    if source.startswith(hub.SCHEME):
        stated = hub.download(source, part)
        known = known or stated
    else:
        http.download(url, part)
    try:
        digest = _compared(url, part, teacher.size, known, read)
    except DamagedFile:
        http.Begun(part, url).remove()
        raise
    sync(part)
    if not (teacher.sha256 or recorded(path)):
        record(path, digest, source)
    os.replace(part, path)
    http.Begun(part, url).remove()
    sync(path.parent)


def _compared(url: str, part: Path, size: int | None, known: str, read: Reader) -> str:
    """The SHA-256 of what came. DamagedFile if it is not what it should be."""
    with part.open("rb") as file:
        head = file.read(2**16)
    if WEB_PAGE.match(head):
        raise answers.web_page(url, head)
    if size not in (None, part.stat().st_size):
        raise DamagedFile(f"{url} gives {part.stat().st_size:,} bytes and not the {size:,} that the teacher has")
    digest = sha256(part)
    if known and digest != known:
        raise DamagedFile(
            f"{url} gives another file than it should: its sha256 is {digest} and not {known}; it was changed on the "
            "server or on the way, and was not kept"
        )
    try:
        read(part)
    except UnsafeFile:
        pass  # `import-teacher` may want it; whoever reads it gets the sentence
    except DamagedFile as error:
        raise DamagedFile(f"{url} gives no weights: {error}") from error
    return digest


def _by_hand(name: str, teacher: Teacher) -> str:
    urls = " or ".join(hub.address(source) for source in teacher.sources)
    return f"fetch {urls} with a browser, on any machine, and give the file: --teacher {name}@FILE"
