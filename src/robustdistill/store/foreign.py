"""Weights out of files that can only be read by running code from them: once, in a process that gets little.

The process is the user's own and no sandbox: it can read the user's files and use the network. What is kept from it
are the environment's variables, among them tokens, this process's memory and its input; what it hands back is one
file of plain tensors, read as any stranger's.
"""

import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from robustdistill.errors import DamagedFile
from robustdistill.store.weights import read_weights
from robustdistill.types import Weights

LIMIT = 600.0  # seconds
WORDS = 4096  # bytes of the last things that it says
KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "OMP_NUM_THREADS")
HOME = Path(__file__).resolve().parents[2]  # the folder that holds our package
# Without `site` nothing is run but what is named here: sys.path is ours, handed over.
BOOT = (
    f"import sys; sys.path += sys.argv.pop(1).split({os.pathsep!r}); "
    "from robustdistill.store.unpickle import main; main(sys.argv[1:])"
)


def run_and_read(path: Path, folders: Sequence[Path] = (), limit: float = LIMIT) -> Weights:
    """The weights of a file that only its own code can read, as `read_weights` gives them. It runs that code.

    `folders` hold the source of modules that it needs; after `limit` seconds it is stopped. Raises DamagedFile if the
    code fails, says what module it lacks, or hands back no weights. Nothing stays but what the code itself left.
    """
    with tempfile.TemporaryDirectory(prefix="robustdistill-", ignore_cleanup_errors=True) as scratch:
        made = Path(scratch, "weights.safetensors")
        code, words = _run([path, made, *folders], Path(scratch), limit)
        if code is None:
            raise DamagedFile(f"{path} was given up: its code still ran after {limit:g} s; nothing was kept")
        if code != 0:
            raise DamagedFile(_why(path, code, words))
        if not made.exists() or not stat.S_ISREG(made.lstat().st_mode):
            raise DamagedFile(f"{path} ended the process that read it before any weights were handed back")
        try:
            return read_weights(made)
        except DamagedFile as error:
            raise DamagedFile(str(error).replace(str(made), str(path))) from error


def _run(arguments: Sequence[Path], scratch: Path, limit: float) -> tuple[int | None, str]:
    """The exit code of the process, None if it was stopped at the limit, and the last line that it wrote."""
    paths = os.pathsep.join([str(HOME), *_import_paths()])
    command = [sys.executable, "-I", "-S", "-c", BOOT, paths, *(str(path.resolve()) for path in arguments)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            cwd=scratch,
            env=_environment(scratch),
            start_new_session=True,  # so that it can be ended with all that it started
        )
        try:
            return process.wait(limit), _last_line(said)
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            _end(process)


def _import_paths() -> list[str]:
    """Where this process finds modules, but for the folder that it was started in."""
    return [path for path in sys.path if path and Path(path).exists() and Path(path).resolve() != Path.cwd()]


def _environment(scratch: Path) -> dict[str, str]:
    """Next to nothing: no tokens, no proxies, no settings; a home that goes away; no GPU, which would take seconds."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    homes = dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP"), str(scratch))
    return kept | homes | {"LC_ALL": "C.UTF-8", "CUDA_VISIBLE_DEVICES": ""}


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


def _last_line(said: IO[bytes]) -> str:
    """The last line of a file, without what would move a terminal's cursor."""
    said.seek(max(0, said.seek(0, os.SEEK_END) - WORDS))
    lines = said.read(WORDS).decode(errors="replace").strip().splitlines()
    return "".join(c for c in lines[-1] if c.isprintable())[:300] if lines else ""


def _why(path: Path, code: int, line: str) -> str:
    if missing := re.search(r"No module named '([\w.]+)'", line):
        return (
            f"{path} needs the module {missing[1]!r}, which cannot be imported here: fetch the source that the file "
            "was made with and name the folder that holds the module with --path DIR, or install it"
        )
    if lost := re.search(r"attribute '(\w+)' on <module '__main__'", line):
        return (
            f"{path} needs {lost[1]!r}, which the script that wrote it defined itself and no module has; ask its "
            "author for the state dict alone, best as safetensors"
        )
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{path} cannot be read, even by running its code: {line or f'it ended with {how} and said nothing'}"
