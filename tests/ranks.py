"""Two processes that share runs on the CPU: what they do is in `doings.py`, what they report is read here."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).parent
FAIR = TESTS.parent / "plugins" / "robustdistill-fair"
SIZE = 2
LIMIT = 120  # seconds, for one that hangs


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    paths = os.pathsep.join(map(str, (TESTS.parent / "src", TESTS, FAIR)))
    return kept | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ROBUSTDISTILL_PLUGINS": "", **more}


def doing(name: str, folder: Path, size: int = SIZE) -> list[dict[str, Any]]:
    """What the function `name` of `doings.py` reports from each process."""
    command = [sys.executable, "-W", "error::UserWarning", str(TESTS / "doings.py"), name, str(folder)]
    started = [subprocess.Popen([*command, str(r), str(size)], env=environment(), cwd=folder) for r in range(size)]
    try:
        assert [p.wait(LIMIT) for p in started] == [0] * size
    finally:
        for p in started:
            p.kill()
    return [torch.load(folder / f"{r}.pt", weights_only=False) for r in range(size)]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def commands(arguments: Sequence[str], folder: Path, size: int = SIZE) -> list[subprocess.Popen[str]]:
    """`robustdistill ARGUMENTS` in processes as torchrun starts them, but each with streams and an end of its own."""
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(
            [sys.executable, "-u", "-m", "robustdistill", *arguments],
            env=environment(RANK=str(r), LOCAL_RANK=str(r), **shared),
            cwd=folder,
            **pipes,
        )
        for r in range(size)
    ]


def ended(processes: Sequence["subprocess.Popen[str]"]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    try:
        said = [p.communicate(timeout=LIMIT) for p in processes]
    finally:
        for p in processes:
            p.kill()
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, said, strict=True)]
