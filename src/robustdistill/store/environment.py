"""Where a run ran: what decides whether its numbers can be had again, to the bit or at all."""

import hashlib
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from robustdistill.store.eventlog import now
from robustdistill.types import Split, Splits

PACKAGES = ("robustdistill", "torchvision", "timm", "pyautoattack", "safetensors", "numpy", "pydantic", "pluggy")


def environment(device: torch.device, plugins: Sequence[object] = ()) -> dict[str, Any]:
    """The content of `environment.json`. `plugins`: names or records, kept as they are given."""
    return {
        "created": now(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "packages": {name: found for name in PACKAGES if (found := version(name))},
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "git": git_state(Path.cwd()),
        "plugins": list(plugins),
    }


def data_sha256(splits: Splits) -> dict[str, str]:
    """SHA-256 of each split's decoded images (uint8) and labels (int64): where two runs agree, they saw the same."""
    parts = {"train": splits.train, "holdout": splits.holdout, "test": splits.test, "extra": splits.extra}
    return {name: _sha256(part) for name, part in parts.items() if part is not None}


def _sha256(split: Split) -> str:
    digest = hashlib.sha256(split.images.contiguous().numpy().data)
    digest.update(split.labels.contiguous().numpy().data)
    return digest.hexdigest()


def version(package: str) -> str | None:
    """The installed version of a distribution, None when it is not installed. Does not import it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def device_name(device: torch.device) -> str:
    """The product name of a GPU or of the CPU, as far as the system tells."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return cpu_name()
    return device.type


def cpu_name() -> str:
    """The CPU's product name on Linux, else what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_state(directory: Path) -> dict[str, Any] | None:
    """Commit of the working directory and whether tracked files differ from it; None outside a repository."""
    commit = _git(directory, "rev-parse", "HEAD")
    changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "dirty": bool(changes)}


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
