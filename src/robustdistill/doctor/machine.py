"""The device and what it can do, the compiler, the cores."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from robustdistill.doctor.finding import Asked, Finding, fails, note, ok, size
from robustdistill.doctor.software import installed
from robustdistill.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

CGROUP = Path("/sys/fs/cgroup")
DRIVER = Path("/proc/driver/nvidia/version")
LITTLE = 2e9  # bytes of a GPU's memory, below which trainings of the usual size do not fit
TOLERANCE = 0.01  # of a gradient's norm: TF32 and bf16 stay below it


def device(asked: Asked) -> Finding:
    """Which device runs use: its name and free memory. Where CUDA does not work, why, in torch's words."""
    import torch

    from robustdistill.engine.execution import pick_device
    from robustdistill.store.environment import device_name

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of here, `_no_cuda` tells
        try:
            chosen = pick_device(asked.device)
        except UserError as error:
            return fails("device", f"{error} ({_no_cuda()})" if "cuda" in asked.device else str(error), _repair())
        if chosen.type == "cuda":
            free, total = torch.cuda.mem_get_info(chosen)
            told = f"{chosen}: {device_name(chosen)}, {size(free)} of {size(total)} free"
            if (n := torch.cuda.device_count()) > 1:
                told += f"; torchrun --nproc-per-node {n} uses all {n} GPUs of this machine"
            return ok("device", told) if free >= LITTLE else note("device", told, "see with nvidia-smi who uses it")
        told = f"cpu: {device_name(chosen)}"
        why = _no_cuda() if asked.device == "auto" else ""
    if why and _has_gpu():
        return note("device", f"{told}; this machine's GPU cannot be used: {why}", _repair())
    return ok("device", f"{told}; no CUDA: {why}" if why else told)


def _no_cuda() -> str:
    """Why torch has no CUDA device, in its words; "" when it has one."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:
        return first_line(error)
    return "" if torch.cuda.is_available() else "torch finds no device"


def _has_gpu() -> bool:
    return DRIVER.exists() or shutil.which("nvidia-smi") is not None


def _repair() -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return f"unset CUDA_VISIBLE_DEVICES ({hidden!r} now), or use --device cpu"
    return "compare `nvidia-smi` with the CUDA that torch was built for, see pytorch.org; or use --device cpu"


def arithmetic(asked: Asked) -> Finding:
    """A small convolution, forwards and backwards, really runs on the device and is right."""
    import torch

    from robustdistill.engine.execution import pick_device

    try:
        chosen = pick_device(asked.device)
    except UserError:
        return note("arithmetic", "not tried: there is no such device", "see the device above")
    try:
        made, exact = _gradient(chosen, torch.float32), _gradient(torch.device("cpu"), torch.float64)
    except Exception as error:  # a driver's, cuDNN's or memory's; a build of torch without code for this GPU
        advice = "install a torch that was built for this device, see pytorch.org; or use --device cpu"
        return fails("arithmetic", f"a small convolution fails on {chosen}: {first_line(error)}", advice)
    off = float((made.double() - exact).norm() / exact.norm())
    if off < TOLERANCE:
        return ok("arithmetic", f"a small convolution runs forwards and backwards on {chosen}, right to {off:.0e}")
    advice = "torch, its libraries or the device are broken: install torch again, or use --device cpu"
    return fails("arithmetic", f"the gradient of a small convolution on {chosen} is off by {off:.1%}", advice)


def _gradient(device: "torch.device", dtype: "torch.dtype") -> "torch.Tensor":
    """The gradient of a sum of squares by the weights of a convolution, on the CPU."""
    import torch

    draw = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=draw).to(device, dtype) for shape in ((4, 3, 8, 8), (8, 3, 3, 3)))
    w.requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.conv2d(x, w, padding=1).square().sum(), w)
    return gradient.cpu()


def formats(asked: Asked) -> Finding:
    """The number format that `precision = "auto"` means on the device, for all but tiny networks."""
    from robustdistill.engine.execution import BF16_FLOPS, Work, choose, pick_device

    try:
        chosen = pick_device(asked.device)
    except UserError:
        return note("formats", "not known: there is no such device", "see the device above")
    how, _ = choose("eager", "auto", chosen, Work(student=BF16_FLOPS, step=BF16_FLOPS, steps=1))
    if how.precision == "bf16":
        return ok("formats", "bf16 by default, fp32 and fp64: the device computes in all of them")
    return ok("formats", "fp32 by default, and fp64; bf16 is emulated here and slow")


def compiler(asked: Asked) -> Finding:
    """Whether `--mode compile` and compiled steps of `graph` would find what they need. Nothing is compiled."""
    import torch

    if asked.device == "cpu" or not torch.cuda.is_available():
        wanted, first = ("C++", os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))
    else:
        wanted, first = "C", os.environ.get("CC") or shutil.which("gcc") or "clang"
        if not any(map(installed, ("triton", "pytorch-triton", "triton-windows"))):
            return _uncompiled("there is no triton, which compiles for GPUs", "pip install triton")
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    version = _version_of(first)
    if version is None:
        return _uncompiled(f"there is no {wanted} compiler ({first})", "install one")
    if not headers.is_file():
        return _uncompiled(f"Python's headers are missing ({headers})", "install them (python3-dev)")
    return ok("compiler", version)


def _uncompiled(what: str, advice: str) -> Finding:
    return note("compiler", f"{what}: networks are not compiled, with a warning", f"{advice}, or use --mode eager")


def _version_of(command: str) -> str | None:
    """What a compiler says of itself, in a line; None if it cannot be run."""
    try:
        done = subprocess.run([*shlex.split(command), "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), command) if done.returncode == 0 else None


def threads(_: Asked) -> Finding:
    """The threads of torch against the cores that this process may use."""
    import torch

    have, cores = torch.get_num_threads(), allowed_cores()
    setting = os.environ.get("OMP_NUM_THREADS")
    told = f"{have} for {cores} of {os.cpu_count()} cores" + (f" (OMP_NUM_THREADS={setting})" if setting else "")
    if have > cores:
        return note("threads", f"{told}: they wait for each other", f"set OMP_NUM_THREADS={cores}")
    return ok("threads", told)


def allowed_cores() -> int:
    """The cores that this process may use: those that it is tied to, or fewer where a container has a quota."""
    tied = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return min(tied, max(1, round(quota))) if quota else tied


def _quota() -> float | None:
    """The cores that the container's control group grants, of version 2 or 1; None without a limit."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        files = [CGROUP / name for name in names]
        if all(map(Path.is_file, files)):
            granted, period = " ".join(file.read_text() for file in files).split()
            return None if granted in ("max", "-1") else float(granted) / float(period)
    return None
