"""Where things are kept: home, caches, temporary files, runs; and the names and times that files get."""

import locale
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from robustdistill.doctor.finding import Asked, Finding, fails, note, ok, size
from robustdistill.errors import first_line
from robustdistill.store import lock, rundir
from robustdistill.store.atomic import leftovers

GB = 1e9
LEAST, LITTLE = 1 * GB, 5 * GB  # free disk space: too little for a run, and for many
PATIENCE = 1.0  # seconds for adding up a cache
DAY = 86_400.0


def home(_: Asked) -> Finding:
    """The home folder, below which caches lie."""
    advice = "set HOME, or XDG_CACHE_HOME and HF_HOME, to folders of yours"
    try:
        folder = Path.home()
    except RuntimeError as error:
        return note("home", f"there is none: {first_line(error)}; nothing is cached", advice)
    if not folder.is_dir():
        return note("home", f"{folder} is no folder", advice)
    return ok("home", str(folder))


def cache(_: Asked) -> Finding:
    """Our own cache: decoded images and unpacked archives."""
    from robustdistill.data import cache

    try:
        folder = cache.folder()
    except RuntimeError:
        return note("cache", "there is none: no home folder", "set XDG_CACHE_HOME to a folder of yours")
    advice = "set XDG_CACHE_HOME to a folder of yours; without it images are decoded anew for each run"
    return _kept("cache", folder, advice)


def hub_cache(_: Asked) -> Finding:
    """Hugging Face's cache, where downloads go, and whether they are allowed."""
    from robustdistill.data import download

    folder, offline = download.hub_cache()
    advice = "set HF_HOME to a folder of yours; without it each CIFAR comes from its authors' slow server"
    found = _kept("hub cache", folder, advice)
    told = "; HF_HUB_OFFLINE is set, nothing is downloaded" if offline else ""
    return Finding(found.check, found.state, found.found + told, found.advice)


def _kept(name: str, folder: Path, advice: str) -> Finding:
    if problem := unwritable(folder):
        return note(name, f"{folder} cannot be written: {problem}", advice)
    return ok(name, f"{folder}, {used(folder)}" if folder.is_dir() else f"{folder}, made when it is needed")


def temporary_files(_: Asked) -> Finding:
    """The folder of temporary files, which compilers and `import-teacher` use."""
    try:
        return ok("temporary files", tempfile.gettempdir())
    except FileNotFoundError as error:
        advice = "set TMPDIR to a folder that can be written"
        return fails("temporary files", f"there is no folder for them: {first_line(error)}", advice, needed=False)


def disk(asked: Asked) -> Finding:
    """Whether runs can be written where they go, and how much space is left there."""
    place = asked.runs.absolute()
    if problem := unwritable(place):
        advice = "change to another folder, or use --out"
        return fails("disk", f"runs go to {place}, which cannot be written: {problem}", advice)
    free = shutil.disk_usage(_existing(place)).free
    told, advice = f"runs go to {place}, {size(free)} free", "make room, or use --out on another disk"
    if free < LEAST:
        return fails("disk", told, advice)
    return note("disk", told, advice) if free < LITTLE else ok("disk", told)


def runs(asked: Asked) -> Finding:
    """Locks of processes that are gone, and files that one left half-written."""
    found = rundir.runs(asked.runs)
    stale = [f for r in found if (f := r.path / rundir.LOCK).exists() and not lock.user(f)]
    halves = [f for r in found for folder in (r.path, r.checkpoints) for f in leftovers(folder)]
    told = f"{len(found)} under {asked.runs}"
    if not stale and not halves:
        return ok("runs", told)
    left = ", ".join(map(str, [*stale, *halves][:3])) + (", ..." if len(stale) + len(halves) > 3 else "")
    told = f"{told}; {len(stale)} locks of processes that are gone, {len(halves)} half-written files: {left}"
    return note("runs", told, "go on with such a run by `train --resume RUN`, or delete these files")


def encoding(_: Asked) -> Finding:
    """The encodings of file names and of texts."""
    files, texts = sys.getfilesystemencoding(), locale.getencoding()
    told = f"file names in {files}, texts in {texts}"
    if {name.lower().replace("-", "") for name in (files, texts)} == {"utf8"}:
        return ok("encoding", told)
    return note("encoding", f"{told}: other letters are replaced", "set LC_ALL=C.UTF-8 or PYTHONUTF8=1")


def clock(_: Asked) -> Finding:
    """The clock, against the time when this package was installed."""
    now, then = time.time(), Path(__file__).stat().st_mtime
    told = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < then - DAY:
        advice = "set it; downloads are refused and the newest run is mistaken while it is wrong"
        return note("clock", f"{told}, which is before this package was installed", advice)
    return ok("clock", told)


def unwritable(folder: Path) -> str:
    """Why no file can be written in `folder`, or where it would be made; "" if one can. Nothing stays."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return ""
    except OSError as error:
        return (error.strerror or first_line(error)).lower()


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def used(folder: Path) -> str:
    """The size of all files in `folder`, each counted where it lies and not where links to it do."""
    total, end = 0, time.monotonic() + PATIENCE
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(Path(parent, name)).st_size
            except OSError:  # deleted meanwhile
                continue
        if time.monotonic() > end:
            return f"more than {size(total)}"
    return size(total)
