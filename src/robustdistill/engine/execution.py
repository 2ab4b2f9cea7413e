"""How a run's steps are executed: on which device, in which mode and number format; decided once, before it starts.

The mathematics has one home, `engine.step`. A mode only says who runs it: Python (`eager`), Python with the
networks compiled (`compile`), or the device alone, replaying a recorded step (`graph`).
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from robustdistill.errors import UserError
from robustdistill.world import current

# Measured on a CPU with AMX: bf16 halves the time of a forward and backward from about 9 MFLOP an image on, and
# changes nothing below 5. Compiling three networks takes minutes, what a GPU computes in about 30 PFLOP's time.
BF16_FLOPS = 5e6
COMPILE_FLOPS = 3e16
RECORD_STEPS = 30


@dataclass(frozen=True)
class Execution:
    """`mode`: eager, compile or graph. `precision`: fp32; bf16 (networks alone; weights, losses and optimiser are
    fp32); fp64. `compiled`: whether full batches go through compiled networks.
    """

    device: torch.device
    mode: str = "eager"
    precision: str = "fp32"
    compiled: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The format of weights, images, losses and the optimiser."""
        return dtype_of(self.precision)

    @property
    def plain(self) -> bool:
        """Whether networks run as they are, in full precision and not compiled."""
        return self.precision != "bf16" and not self.compiled

    def __str__(self) -> str:
        return f"{self.mode} {self.precision}" + (" compiled" if self.compiled and self.mode == "graph" else "")


def dtype_of(precision: str) -> torch.dtype:
    """float64 for fp64, else float32: bf16 is a format of the networks' inside."""
    return torch.float64 if precision == "fp64" else torch.float32


@dataclass(frozen=True)
class Work:
    """What a run computes, in floating-point operations: the student's forward of one image, a step, all steps."""

    student: float
    step: float
    steps: int

    @property
    def total(self) -> float:
        """All steps."""
        return self.step * self.steps


def choose(mode: str, precision: str, device: torch.device, work: Work) -> tuple[Execution, tuple[str, ...]]:
    """(how to run, sentences on what was asked for and cannot be). `auto` is what is fastest on the device.

    CUDA: `graph`, with compiled networks where the work repays compiling; `eager` for a handful of steps. CPU:
    `eager`; bf16 where the CPU computes in it and the student is not tiny.
    """
    format = _precision(device, work) if precision == "auto" else precision
    several = current().size > 1  # a recorded step would have to hold every word between the processes
    if mode == "graph" and several and device.type == "cuda":
        compiled = work.total >= COMPILE_FLOPS
        instead = "compile" if compiled else "eager"
        note = f"mode graph records the steps of one process alone: running {instead}"
        return Execution(device, instead, format, compiled), (note,)
    if mode == "graph" and device.type != "cuda":
        return Execution(device, "eager", format), ("mode graph records CUDA graphs and needs a GPU: running eager",)
    if mode != "auto":
        return Execution(device, mode, format, compiled=mode != "eager"), ()
    if device.type != "cuda" or work.steps < RECORD_STEPS:
        return Execution(device, "eager", format), ()
    compiled = work.total >= COMPILE_FLOPS
    if several:
        return Execution(device, "compile" if compiled else "eager", format, compiled), ()
    return Execution(device, "graph", format, compiled), ()


def _precision(device: torch.device, work: Work) -> str:
    large = device.type == "cuda" or work.student >= BF16_FLOPS
    return "bf16" if large and computes_bf16(device) else "fp32"


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic. Elsewhere torch emulates it, up to a hundred times slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return cpu_computes_bf16()


def cpu_computes_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has bf16 arithmetic (AMX or AVX512-bf16)."""
    flags = cpuinfo.read_text(errors="replace").split() if cpuinfo.exists() else []
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where it is available, else the CPU. UserError for a device that is not there.

    Of several processes on a machine each has a GPU of its own: `cuda` is the one with its number, or the one it sees.
    """
    here = current()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" or here.size == 1:
            return torch.device(name)
    if here.size > 1 and name.startswith("cuda:"):
        raise UserError(f"--device {name}: each process takes a GPU of its own; write --device cuda")
    if here.size > 1 and name == "cuda":
        name = f"cuda:{0 if _sees_its_own_alone() else here.local}"
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


def _sees_its_own_alone() -> bool:
    """Whether each process of this machine was shown one GPU, which torchrun does not do. NCCL refuses one for two."""
    return torch.cuda.device_count() == 1 and "TORCHELASTIC_RUN_ID" not in os.environ


def freeze(network: nn.Module) -> nn.Module:
    """A teacher: eval mode, no parameter asks for a gradient. Gradients still pass through to its input."""
    return network.eval().requires_grad_(False)
