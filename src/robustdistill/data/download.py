"""Data sets from the network, once: as parquet from the Hugging Face hub; the CIFARs else as their authors' archive.

What is said on the way goes to the log `robustdistill`, which without a setting of its own writes to stderr.
"""

import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from urllib.parse import urlsplit

from robustdistill.data import cache, parquet
from robustdistill.data.origins import Archive, Origin
from robustdistill.errors import DamagedFile, UserError, disk_full, first_line

LOG = logging.getLogger("robustdistill")
KIND = "dataset"  # what the hub calls a repository of data
TORONTO = "www.cs.toronto.edu"


def folder(origin: Origin) -> Path:
    """The folder of a data set that nobody brought: from the hub's cache, else from our own, else downloaded there.

    Files of the hub are checked each time: the sha256 that the hub states and the number of rows. With
    HF_HUB_OFFLINE nothing is downloaded. Raises: DamagedFile for a file that is not what it should be, which is then
    deleted; UserError when no download succeeds.
    """
    from huggingface_hub import constants  # here and not above: naming a data set need not load it

    paths = _cached(origin)
    if paths:
        return _checked(origin, paths, [_linked(path) for path in paths])
    if unpacked := _unpacked(origin):
        return unpacked
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{origin.title} was not downloaded before, and HF_HUB_OFFLINE forbids it now; unset it, or give the "
            "folder that holds the data with --data-dir FOLDER"
        )
    return _downloaded(origin, urlsplit(constants.ENDPOINT).netloc)


def found(origin: Origin) -> Path | None:
    """The folder of a data set that lies in one of the caches already; its content is not looked at."""
    paths = _cached(origin)
    return paths[0].parent if paths else _unpacked(origin)


def hub_cache() -> tuple[Path, bool]:
    """The hub's cache folder, and whether HF_HUB_OFFLINE forbids downloads."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE), constants.HF_HUB_OFFLINE


def quiet() -> bool:
    """Whether progress bars are out of place: switched off, or stderr is no terminal."""
    from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]

    return are_progress_bars_disabled() or not sys.stderr.isatty()


def _downloaded(origin: Origin, hub: str) -> Path:
    try:
        return _from_hub(origin, hub)
    except DamagedFile:
        raise
    except Exception as error:  # the library's HTTP client, and with it the errors, changed from version to version
        failed, causes = error, f"{hub}: {_cause(error)}"
    if origin.archive is not None:
        try:
            return _from_archive(origin.title, origin.archive, causes)
        except Exception as error:
            failed, causes = error, f"{causes}; {TORONTO}: {_cause(error)}"
    raise UserError(
        f"{origin.title} cannot be downloaded ({causes}); try again later, or give the folder that holds it with "
        "--data-dir FOLDER"
    ) from failed


def _cause(error: Exception) -> str:
    """An error in a line. A full disk is no reason to look elsewhere: raised again."""
    if disk_full(error):
        raise error
    return first_line(error)


# ---- the hub ------------------------------------------------------------------------------------------------
def _cached(origin: Origin) -> list[Path]:
    """Both files where the hub's cache has them, else nothing. Asks no server."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(origin.repo, file, repo_type=KIND) for file in origin.files]
    paths = [Path(file) for file in found if isinstance(file, str)]
    return paths if len(paths) == len(found) else []


def _from_hub(origin: Origin, hub: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    stated = [get_hf_file_metadata(hf_hub_url(origin.repo, file, repo_type=KIND)) for file in origin.files]
    megabytes = sum(file.size or 0 for file in stated) / 1e6
    LOG.warning("downloading %s (%.0f MB) from %s, once", origin.title, megabytes, hub)
    paths = [Path(hf_hub_download(origin.repo, file, repo_type=KIND)) for file in origin.files]
    return _checked(origin, paths, [file.etag for file in stated])


def _linked(path: Path) -> str | None:
    """The sha256 that the hub stated for a file of its cache: the name of what the file is a link to.

    None on systems without links, where it was compared on arrival only.
    """
    return Path(os.readlink(path)).name if path.is_symlink() else None


def _checked(origin: Origin, paths: Sequence[Path], stated: Sequence[str | None]) -> Path:
    """The folder of `paths`. DamagedFile at the first that is not what was promised; it is deleted."""
    for path, sha256, rows in zip(paths, stated, origin.rows, strict=True):
        if wrong := _wrong(path, sha256, rows):
            _delete(path)
            raise DamagedFile(
                f"{path} {wrong}. It was deleted: run again to download it anew, or give another folder of "
                f"{origin.title} with --data-dir FOLDER"
            )
    return paths[0].parent


def _wrong(path: Path, stated: str | None, rows: int) -> str:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if stated not in (None, sha256):
        return f"has the sha256 {sha256}, but the hub states {stated}"
    try:
        found = parquet.rows(path)
    except DamagedFile:
        return "is no parquet file"
    return f"holds {found:,} images, not {rows:,}" if found != rows else ""


def _delete(path: Path) -> None:
    """Deletes a file of the hub's cache with all the links on the way to it."""
    while path.is_symlink():
        link, path = path, path.parent / os.readlink(path)
        link.unlink()
    path.unlink()


# ---- the authors' archive -----------------------------------------------------------------------------------
def _unpacked(origin: Origin) -> Path | None:
    """Our cache folder if it holds the unpacked archive."""
    with suppress(RuntimeError):  # no home folder
        if origin.archive and (cache.folder() / origin.archive.batches.folder).is_dir():
            return cache.folder()
    return None


def _from_archive(title: str, archive: Archive, why: str) -> Path:
    """torchvision downloads the archive, compares its md5 and unpacks it; only then it gets its place."""
    from torchvision import datasets

    home, name = cache.folder(), archive.batches.folder
    LOG.warning(
        "%s; downloading %s (%d MB) from %s, once: this server is slow, and what it has is in another order, so that "
        "other images are held out",
        *(why, title, archive.megabytes, TORONTO),
    )
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as scratch, _bars_for_terminals():
        getattr(datasets, archive.loader)(scratch, train=False, download=True)
        if not (home / name).is_dir():  # another process may have been faster
            os.replace(Path(scratch, name), home / name)
    return home


@contextmanager
def _bars_for_terminals() -> Iterator[None]:
    """What the block prints goes to stderr where the hub's own progress bars would, else nowhere."""
    with open(os.devnull, "w") as nowhere:
        stream = nowhere if quiet() else sys.stderr
        with redirect_stdout(stream), redirect_stderr(stream):
            yield
