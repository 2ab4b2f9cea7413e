"""What a failure looks like to a user: one sentence and an exit code."""

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Iterator

from robustdistill.errors import RobustDistillError, disk_full

BUG = 1
INPUT, MEMORY, DISK, INTERRUPTED = 2, 5, 6, 130
UNWRITTEN = {
    errno.EFBIG: "a file grew beyond the limit on file sizes",
    errno.EIO: "the disk failed",
    errno.EROFS: "the file system is read-only",
}
MEMORY_ADVICE = (
    "use a smaller --batch-size (a new run: it changes BatchNorm and the steps), a smaller student, precision = bf16, "
    "or another --device; what was saved before is kept"
)


def install() -> None:
    """Python's warnings become lines on stderr, and output that the terminal cannot spell does not raise."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if callable(reconfigure := getattr(stream, "reconfigure", None)):
            reconfigure(errors="replace")


def _show_warning(message: object, *_: object, **__: object) -> None:
    print(f"warning: {one_line(str(message))}", file=sys.stderr)


def one_line(text: str) -> str:
    """`text` without line breaks, and without what would move a terminal's cursor: names may come from files."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def sentence(error: BaseException) -> tuple[str, int] | None:
    """The sentence and exit code of a failure that a user can act on; None for a bug."""
    if isinstance(error, RobustDistillError):
        return one_line(str(error)), error.exit_code
    if callable(words := getattr(error, "format_message", None)):  # typer's own: a misspelt option or command
        return one_line(words()), int(getattr(error, "exit_code", INPUT))
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return "interrupted", INTERRUPTED
    if _out_of_memory(error):
        return f"out of memory: {MEMORY_ADVICE}", MEMORY
    if disk_full(error) or "No space left on device" in str(error):
        return f"the disk is full{_file(error)}; make room, then go on with `train --resume RUN`", DISK
    if getattr(error, "errno", None) in UNWRITTEN:
        what = UNWRITTEN[error.errno]  # type: ignore[attr-defined]
        return f"{what}{_file(error)}; mend that, then go on with `train --resume RUN`", DISK
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read it has gone, as `| head` does
        return "", 1
    if isinstance(error, OSError):
        return f"{error.strerror or type(error).__name__}{_file(error)}", INPUT
    if isinstance(error, ModuleNotFoundError):
        return f"{one_line(str(error))}: install what is missing; `robustdistill doctor` checks what is needed", INPUT
    return None


def bug(error: BaseException, *, shown: bool) -> tuple[str, int]:
    """The sentence and exit code of a failure that nobody foresaw; it says whose it is, ours or a plugin's.

    `shown`: whether the traceback is.
    """
    what = f"{type(error).__name__}: {one_line(str(error))}".removesuffix(": ")
    again = "" if shown else "run the command again with --debug to see where, and "
    return f"internal error: {what}; this is a bug of {_culprit(error)}: {again}report it", BUG


def _culprit(error: BaseException) -> str:
    """Whose code the traceback ends in, other people's libraries aside: a plugin's, named, or our own."""
    packages = {"robustdistill": "robustdistill", **dict(_plugins())}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = (str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in reversed(frames))
    return next((packages[name] for name in modules if name in packages), "robustdistill")


def _plugins() -> Iterator[tuple[str, str]]:
    """The outermost package of each plugin that is in use, and the plugin in words."""
    from robustdistill.plugins import installed

    for entry in installed():
        distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
        yield entry.module.partition(".")[0], f"the plugin {entry.name} of {distribution}"


def _out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


def _file(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    return f": {name}" if name else ""
