"""`robustdistill import-teacher`."""

import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustdistill.errors import UnsafeFile, UserError

if TYPE_CHECKING:
    from robustdistill.types import Weights

ENDING = ".safetensors"
OTHER_ENDINGS = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar"}
MOST = 12  # names of what is run
COUNTERS = ("running_mean", "running_var", "num_batches_tracked")


def import_teacher(
    file: Annotated[Path, typer.Argument(help="A file of weights that is refused elsewhere.", metavar="FILE")],
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Run the code in FILE, once, in a process of its own.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="New file. [FILE with the ending .safetensors]", metavar="FILE")
    ] = None,
    path: Annotated[
        list[Path] | None, typer.Option(help="Folder of source code that FILE needs.", metavar="DIR")
    ] = None,
) -> None:
    """Turn a file that can only be read by running its code into one of plain tensors.

    A pickle is a program: whoever made it can do with your account what you can. Without --trust-pickle nothing in
    FILE is run, and what it would run is named.
    """
    from robustdistill.store.atomic import write_new
    from robustdistill.store.weights import as_bytes

    target = out or beside(file)
    _check(file, target, path or ())
    weights, ran = _weights(file, trust_pickle, path or ())
    try:
        write_new(target, as_bytes(weights))
    except FileExistsError:
        raise _taken(target) from None
    _show(file, target, weights, _how(ran, trust_pickle))


def beside(file: Path) -> Path:
    """Where the import of `file` goes: next to it, with the ending of a safe file."""
    if file.suffix == ENDING:
        return file
    while file.suffix.lower() in OTHER_ENDINGS:
        file = file.with_suffix("")
    return file.with_name(file.name + ENDING)


def _check(file: Path, target: Path, folders: Sequence[Path]) -> None:
    """UserError for what cannot work, before anything is read or run."""
    if target == file:
        raise UserError(f"{file} is called safetensors already: use it as it is, or name the import with --out")
    if os.path.lexists(target):
        raise _taken(target)
    if not target.parent.is_dir():
        raise UserError(f"there is no folder {target.parent} to hold {target}")
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise UserError(f"there is no folder {missing[0]}; give --path the folder that holds the module's source")


def _taken(target: Path) -> UserError:
    return UserError(f"{target} exists already; choose another --out")


def _weights(file: Path, trusted: bool, folders: Sequence[Path]) -> "tuple[Weights, bool]":
    """The weights, and whether code from the file was run for them."""
    from robustdistill.cli import render
    from robustdistill.store.foreign import run_and_read
    from robustdistill.store.weights import read_weights

    try:
        return read_weights(file), False
    except UnsafeFile as error:
        if not trusted:
            raise
        print(warning(file, error.code), file=sys.stderr, flush=True)
    with render.waiting(f"running the code in {file}"):
        return run_and_read(file, folders), True


def warning(file: Path, code: Sequence[str]) -> str:
    """What --trust-pickle is about to do, and as whom."""
    from robustdistill.store.formats import listed

    return (
        f"warning: running the code in {file} ({listed(code, MOST)}) as {_user()}: tokens and other settings of this "
        "environment are kept from it, your files and the network are open to it"
    )


def _user() -> str:
    try:
        return f"user {getpass.getuser()}"
    except (KeyError, OSError):  # no such name, as in some containers
        return "this user"


def _how(ran: bool, trusted: bool) -> str:
    if ran:
        return "the code in it was run"
    return "nothing in it was run" + (": it holds plain tensors, --trust-pickle was not needed" if trusted else "")


def _show(file: Path, target: Path, weights: "Weights", how: str) -> None:
    from robustdistill import assemble
    from robustdistill.cli import render
    from robustdistill.cli.drive import quoted
    from robustdistill.registry import default_registry
    from robustdistill.store.atomic import sha256

    architecture, data = "not recognised", ["NAME"]
    name = f"ARCH@{target}"
    try:
        found, params, fitting = assemble.fitting(weights, default_registry())
    except UserError:
        pass
    else:
        architecture = ", ".join([found, *(f"{k} = {v}" for k, v in params.items())])
        name, data = quoted(target), fitting or data
    parameters = sum(v.numel() for k, v in weights.items() if not k.endswith(COUNTERS))
    render.show_pairs(
        [
            ("file", str(target)),
            ("from", f"{file}; {how}"),
            ("architecture", architecture),
            ("tensors", f"{len(weights)} of {parameters:,} parameters"),
            ("sha256", sha256(target)),
            ("next", f"robustdistill train --teacher {name} --data {'|'.join(data)}"),
        ]
    )
