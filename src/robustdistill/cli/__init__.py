"""The command line. Importing it imports neither torch nor what needs torch: commands do that when they run."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from robustdistill.cli import failures, processes, threads

DEBUG, JSON = "--debug", "--json"


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0, or a sentence on stderr and the error's exit code (see `failures`).

    A bug too is a sentence and the exit code 1; `--debug` shows the traceback of either.
    """
    given = list(sys.argv[1:] if args is None else args)
    failures.install()
    threads.patient()
    if JSON in given:  # a program is listening: nothing moves on stderr while a data set is downloaded
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with processes.speaking() as stderr:
        try:
            code = _run([a for a in given if a != DEBUG])
        except SystemExit:
            raise
        except BaseException as error:
            debug = DEBUG in given
            text, code = failures.sentence(error) or failures.bug(error, shown=debug)
            text = processes.sentence(error, text)
            if debug and (text or processes.first()):
                traceback.print_exc(file=stderr)
            if text:
                print(f"error: {text}", file=stderr)
    processes.leave(code)


def _run(args: list[str]) -> int:
    from robustdistill.cli.app import command

    code = command().main(args, prog_name="robustdistill", standalone_mode=False)
    sys.stdout.flush()
    return code if isinstance(code, int) else 0
