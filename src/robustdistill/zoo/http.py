"""One file from a web server: begun downloads go on, and nothing but a whole file counts as one."""

import errno
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustdistill.errors import RobustDistillError, UserError, disk_full
from robustdistill.outside import from_json
from robustdistill.store.atomic import read_file, write_atomic
from robustdistill.store.plain import dumps
from robustdistill.zoo import answers, hub
from robustdistill.zoo.answers import TryAgain

TIMEOUT = 30.0  # seconds without a byte
PAUSES = (1.0, 4.0, 10.0)  # seconds before the second, third and fourth try; tries that bring bytes do not count
LONGEST = 60.0  # seconds that a server may ask us to wait
BLOCK = 2**20
AGENT = "robustdistill"


@dataclass
class Begun:
    """A download on this disk that may be unfinished: `path`, and beside it what its server said of the file."""

    path: Path
    url: str

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def validator(self) -> str:
        """What tells that the file on the server is still the one that was begun; "" if nothing does."""
        try:
            found = from_json(read_file(self._note).decode())
        except (FileNotFoundError, ValueError):
            return ""
        same = isinstance(found, dict) and found.get("url") == self.url
        return str(found.get("validator") or "") if same else ""

    def start(self, headers: Any) -> None:
        """Begins anew with the file that `headers` describe. Weak tags do not tell files apart to the byte."""
        tag = headers.get("ETag") or ""
        validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified") or ""
        self.path.unlink(missing_ok=True)
        write_atomic(self._note, dumps({"url": self.url, "validator": validator}))

    def remove(self) -> None:
        """Deletes both."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")


class _Whole(Exception):
    """Nothing is missing: whoever downloaded it did not live to use it."""


def download(url: str, path: Path) -> None:
    """Brings the file at `url` to `path`, going on with what is there of it.

    What breaks off, falls silent or is told to come back later is tried four times, with pauses. Raises UserError where
    no file can be had, DamagedFile for a web page in its place, OSError for a full disk; what came stays at `path`
    unless it is of no use.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url} is no address of a file: it must begin with https://, http:// or hf:")
    begun = Begun(path, url)
    best, failures = begun.size, 0
    while True:
        try:
            return _tried(begun)
        except _Whole:
            return None
        except TryAgain as again:
            failures = 0 if begun.size > best else failures + 1
            best = max(best, begun.size)
            if failures > len(PAUSES):
                raise _final(again.failure, failures) from again
            time.sleep(max(PAUSES[max(failures - 1, 0)], min(again.wait, LONGEST)))


def _final(failure: RobustDistillError, tries: int) -> RobustDistillError:
    return type(failure)(f"{failure} ({tries} tries)")


def _tried(begun: Begun) -> None:
    with _opened(begun) as answer:
        have = _kept(begun, answer)
        length = answer.headers.get("Content-Length") or ""
        total = have + int(length) if length.isdigit() else 0
        _refuse_full_disk(begun.path, total - have)
        with hub.bar(begun.path.stem, have, total) as advance:
            for block in _blocks(answer, begun, total):
                _append(begun, block)
                have += len(block)
                advance(len(block))
    if have < total or have == 0:
        raise answers.broken_off(begun.url, have, total)


@contextmanager
def _opened(begun: Begun) -> Iterator[Any]:
    """The server's answer to what is still missing."""
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if begun.size and (validator := begun.validator):
        headers |= {"Range": f"bytes={begun.size}-", "If-Range": validator}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(begun.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # there is nothing after what we have
            if error.headers.get("Content-Range") == f"bytes */{begun.size}":
                raise _Whole from None
            begun.remove()
            raise TryAgain(UserError(f"{begun.url} answers 416: the file there is smaller than what came")) from None
        raise answers.refused(begun.url, error) from None
    except (OSError, http.client.HTTPException) as error:
        raise answers.unreachable(begun.url, error) from error
    with answer:
        yield answer


def _kept(begun: Begun, answer: Any) -> int:
    """How many bytes of before the answer goes on from; anything else is deleted."""
    if "html" in (answer.headers.get("Content-Type") or ""):
        raise answers.web_page(begun.url, answer.read(BLOCK))
    begins = f"bytes {begun.size}-"
    if answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(begins):
        return begun.size
    if answer.status == 206:
        begun.remove()
        raise TryAgain(UserError(f"{begun.url} answers with another part of the file than the one asked for"))
    begun.start(answer.headers)
    return 0


def _blocks(answer: Any, begun: Begun, total: int) -> Iterator[bytes]:
    while True:
        try:
            block = answer.read1(BLOCK)
        except (http.client.IncompleteRead, ConnectionError) as error:
            raise answers.broken_off(begun.url, begun.size, total) from error
        except OSError as error:
            raise answers.unreachable(begun.url, error) from error
        if not block:
            return
        yield block


def _append(begun: Begun, block: bytes) -> None:
    try:
        with begun.path.open("ab") as file:
            file.write(block)
    except OSError as error:
        if disk_full(error):
            begun.remove()  # it filled the disk
        raise


def _refuse_full_disk(path: Path, missing: int) -> None:
    if missing > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
