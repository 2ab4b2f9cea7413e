"""What of torch a caller may have set otherwise, set right while we compute and put back before anybody is told.

A generator of events hands control to whoever iterates; no context may be open then. So contexts stand around each
`next()`, not around the generator.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch

from robustdistill.arithmetic import true_float32
from robustdistill.errors import UserError

T = TypeVar("T")
WORKSPACE, SIZES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")


@contextmanager
def in_order(deterministic: bool = False) -> Iterator[None]:
    """Gradients on, float32 and the CPU as defaults, no autocast, whatever the caller has set; put back afterwards.

    `deterministic`: only kernels that give the same bits every time, without TF32; one that has no such form raises
    RuntimeError.
    """
    before = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, before)
        torch.set_default_dtype(torch.float32)
        stack.enter_context(torch.inference_mode(False))  # no_grad is lifted with it
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if deterministic:
            stack.enter_context(_deterministic())
        yield


@contextmanager
def _deterministic() -> Iterator[None]:
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.use_deterministic_algorithms(True)
        with true_float32():
            yield
    finally:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])


def driven(events: Generator[T, None, None], deterministic: bool = False) -> Iterator[T]:
    """The same events, each computed under `in_order` and told outside of it.

    Raises UserError where something has no deterministic form and must have one.
    """
    try:
        while True:
            with in_order(deterministic):
                try:
                    event = next(events)
                except StopIteration:
                    return
                except RuntimeError as error:
                    if deterministic and "use_deterministic_algorithms" in str(error):
                        raise UserError(_without_form(error)) from error
                    raise
            yield event
    finally:
        with in_order(deterministic):
            events.close()


def _without_form(error: RuntimeError) -> str:
    what = str(error).strip().partition(", but you set")[0]
    return f"deterministic = true: {what} on this device; leave the key out, or use --device cpu"


def deterministic_cublas(device: torch.device) -> None:
    """Gives cuBLAS the workspace without which it is not deterministic: an environment variable, read when CUDA starts.

    UserError if CUDA has started without it.
    """
    if device.type != "cuda" or os.environ.get(WORKSPACE) in SIZES:
        return
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise UserError(f"deterministic = true needs {WORKSPACE}={SIZES[0]} in the environment before CUDA is used")
    os.environ[WORKSPACE] = SIZES[0]
