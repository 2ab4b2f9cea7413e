"""A virtual environment of its own, which borrows the libraries of the running one (torch among them) and this tree."""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"
SCRIPT = '#!/bin/sh\nexec "$(dirname "$0")/python" -m {} "$@"\n'


class Environment:
    """An environment in `folder`, with `pip`, `pytest` and `robustdistill`; nothing it does reaches a network."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True, with_pip=False)
        self.bin = folder / "bin"
        borrowed = [str(SRC), *(p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)]
        borrowed += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "borrowed.pth").write_text("".join(f"{path}\n" for path in dict.fromkeys(borrowed)))
        for name in ("pip", "pytest", "robustdistill"):
            (self.bin / name).write_text(SCRIPT.format(name))
            (self.bin / name).chmod(0o755)

    def run(self, command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """A shell command; it must not need the network."""
        environment = {k: v for k, v in os.environ.items() if k not in ("ROBUSTDISTILL_PLUGINS", "PYTHONPATH")}
        environment |= {"PATH": f"{self.bin}{os.pathsep}{environment['PATH']}", "OMP_NUM_THREADS": "1"}
        environment |= {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # 0: without it
        environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return subprocess.run(command, shell=True, cwd=cwd, env=environment, capture_output=True, text=True)
