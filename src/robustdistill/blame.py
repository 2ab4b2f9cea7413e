"""Errors of what others wrote: by whose line they were raised, and what they may mean on device meta."""

import traceback
from pathlib import Path

import torch

OURS = (Path(torch.__file__).parent, Path(__file__).parent)
ADVICE = "Objectives must not ask the host for values (.item(), if tensor, masks)"


def of_meta(error: Exception) -> str:
    """`KeyError: 'peer' (mine.py, line 12)`, with advice where device meta is what the error is about."""
    said, at = traceback.format_exception_only(error)[-1].strip(), line_of(error)
    asked = isinstance(error, RuntimeError | TypeError) and "meta" in str(error).lower()
    return said + (f" ({at.filename}, line {at.lineno})" if at else "") + (f". {ADVICE}" if asked else "")


def line_of(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost line that is neither torch's nor ours, if there is one."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not any(Path(f.filename).is_relative_to(folder) for folder in OURS)]
    return theirs[-1] if theirs else None
