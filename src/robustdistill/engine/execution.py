"""How a step runs: device, number format, and the forwards that a batch may ask for.

One interface for every mode. `auto` is `eager` for now: the readable step, run as it is written.
"""

from collections.abc import Mapping

import torch
from torch import nn

from robustdistill.errors import UserError
from robustdistill.logits import Networks

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where it is available, else the CPU. UserError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"{name!r} is no device that runs can use; name auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        have = torch.cuda.device_count()
        raise UserError(f"--device {name}: this machine offers {have} CUDA devices to torch; use --device cpu")
    return device


def freeze(network: nn.Module) -> nn.Module:
    """A teacher: eval mode, no parameter asks for a gradient. Gradients still pass through to its input."""
    return network.eval().requires_grad_(False)


def networks(student: nn.Module, teachers: Mapping[str, nn.Module]) -> Networks:
    """The eager forwards of a run."""
    return Networks(student=student, teachers=dict(teachers))
