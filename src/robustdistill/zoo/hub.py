"""What the Hugging Face hub's library does for us: files on the hub, progress bars, locks."""

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from robustdistill.data.download import hub_cache, quiet
from robustdistill.errors import UserError, disk_full, first_line

LOG = logging.getLogger("robustdistill")
SCHEME = "hf:"


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids downloads."""
    return hub_cache()[1]


def address(source: str) -> str:
    """The URL of `hf:USER/REPO/FILE` on the hub, or the mirror that HF_ENDPOINT names; any other source as it is."""
    if not source.startswith(SCHEME):
        return source
    from huggingface_hub import hf_hub_url

    return hf_hub_url(*_split(source))


def host(source: str) -> str:
    """The server of a source."""
    return urlsplit(address(source)).netloc


def download(source: str, path: Path) -> str:
    """Brings the file of `hf:USER/REPO/FILE` to `path`, going on where it broke off. Returns the SHA-256 that the hub
    states ("" if none). UserError if it cannot be had; a full disk is an OSError.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download

    repo, file = _split(source)
    scratch = path.with_name(f"{path.name}.hub")
    try:
        stated = get_hf_file_metadata(address(source)).etag or ""
        os.replace(hf_hub_download(repo, file, local_dir=scratch), path)
    except Exception as error:  # the library's HTTP client, and with it the errors, changed from version to version
        if disk_full(error):
            raise
        raise UserError(f"{address(source)} cannot be had: {first_line(error)}") from error
    shutil.rmtree(scratch, ignore_errors=True)
    return stated if re.fullmatch("[0-9a-f]{64}", stated) else ""


@contextmanager
def bar(name: str, have: int, total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar on stderr where the hub's own would be, on a terminal; gives what to tell of bytes that came."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    with tqdm(  # type: ignore[no-untyped-call]
        total=total or None, initial=have, desc=name, unit="B", unit_scale=True, disable=quiet(), file=sys.stderr
    ) as shown:
        yield shown.update


@contextmanager
def one_at_a_time(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file `path`; while another process does, waits for it and says so. It ends with its process."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        LOG.warning("%s: another process is at it; waiting", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _split(source: str) -> tuple[str, str]:
    parts = source.removeprefix(SCHEME).split("/", 2)
    if len(parts) != 3:
        raise UserError(f"source {source!r} names no file on the hub: write hf:USER/REPO/FILE")
    return f"{parts[0]}/{parts[1]}", parts[2]
