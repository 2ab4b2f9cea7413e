"""A command in each of the processes that torchrun started: the first one speaks and writes, and all of them end."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO, TypeVar

from robustdistill.errors import Diverged, ProcessesApart, Stopped

T = TypeVar("T")


def several() -> bool:
    """Whether torchrun, or whoever sets its variables, started more than this process."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def first(of: str = "RANK") -> bool:
    """Whether this is the first process, or with "LOCAL_RANK" the first one of its machine."""
    return not several() or os.environ.get(of, "0") == "0"


def together(fn: Callable[[], T]) -> T:
    """`fn()`, once all have joined; its error in one process is raised in all."""
    if not several():
        return fn()
    from robustdistill.world import join

    return join().together(fn)


def one_by_one(fn: Callable[[], T]) -> T:
    """The same, where `fn` may have to download something: one process of a machine goes ahead."""
    if not several():
        return fn()
    from robustdistill.world import join

    return join().one_by_one(fn)


@contextmanager
def speaking() -> Iterator[TextIO]:
    """A stream for the sentence of a failure; what else the block prints is heard of the first process only."""
    streams = sys.stdout, sys.stderr
    if first():
        yield sys.stderr
        return
    with open(os.devnull, "w", encoding="utf-8") as silence:
        sys.stdout = sys.stderr = silence
        try:
            yield streams[1]
        finally:
            sys.stdout, sys.stderr = streams


def sentence(error: BaseException, text: str) -> str:
    """What this process says of the error that ends it; nothing if the first one says it for all."""
    process, number = getattr(error, "process", None), os.environ.get("RANK", "0")
    if first():
        return f"process {process}: {text}" if process and text else text
    joined = (world := sys.modules.get("robustdistill.world")) is not None and world.current().size > 1
    alike = process is not None or isinstance(error, Stopped | Diverged | KeyboardInterrupt)
    if alike or not (joined or isinstance(error, ProcessesApart)):
        return ""
    return f"process {number}: {text}"


def leave(code: int) -> NoReturn:
    """Ends this process. After a failure it does not wait for the others, which may wait for it."""
    if several() and (world := sys.modules.get("robustdistill.world")) is not None:
        if code:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        world.leave()
    sys.exit(code)
