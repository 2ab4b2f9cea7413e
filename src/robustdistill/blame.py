"""Errors of a trial step on device meta, as a sentence: what was raised, by whose line, and what it may mean."""

import traceback
from pathlib import Path

import torch

OURS = (Path(torch.__file__).parent, Path(__file__).parent)
ADVICE = "Objectives must not ask the host for values (.item(), if tensor, masks)"


def of_meta(error: Exception) -> str:
    """`KeyError: 'peer' (mine.py, line 12)`, with advice where device meta is what the error is about."""
    said = traceback.format_exception_only(error)[-1].strip()
    asked = isinstance(error, RuntimeError | TypeError) and "meta" in str(error).lower()
    return f"{said}{_place(error)}" + (f". {ADVICE}" if asked else "")


def _place(error: Exception) -> str:
    """The innermost line that is neither torch's nor ours, in brackets, if there is one."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not any(Path(f.filename).is_relative_to(folder) for folder in OURS)]
    return f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
