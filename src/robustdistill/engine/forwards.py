"""Networks as forwards: in the run's number format, compiled or not. Losses see logits, never a format."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustdistill.engine.execution import Execution
from robustdistill.logits import Forward, Networks

HALF = (nn.Conv2d, nn.Linear)


class Compiler:
    """Puts networks behind `torch.compile`, for batches of one size; others run as they are.

    A network is compiled when it is first called, so what is only prepared compiles nothing. `enabled = False`
    sends all batches through the plain networks.
    """

    def __init__(self, batch_size: int, enabled: bool) -> None:
        self.batch_size, self.enabled = batch_size, enabled

    def __call__(self, network: nn.Module) -> Forward:
        """The forward of `network`, with a compiled graph of its own for each mode that it is called in."""
        made: list[Forward] = []

        def forward(v: Tensor) -> Tensor:
            if not self.enabled or len(v) != self.batch_size:
                return plain(v)
            if not made:
                made.append(torch.compile(network, dynamic=False))
            return made[0](v)

        plain: Forward = network
        return forward


def forward_of(network: Forward, execution: Execution) -> Forward:
    """`network` in the number format of `execution`: images come in and gradients go out in its `dtype`.

    bf16: autocast, on channels_last images. The images keep their layout outside, so that noise and gradients
    are laid out alike in every format.
    """
    half, kind, dtype = execution.precision == "bf16", execution.device.type, execution.dtype

    def forward(v: Tensor) -> Tensor:
        v = v.contiguous(memory_format=torch.channels_last) if half and v.dim() == 4 else v.to(dtype)
        with torch.autocast(kind, torch.bfloat16, enabled=half, cache_enabled=False):
            return network(v)

    return forward


def networks(
    student: nn.Module, teachers: Mapping[str, nn.Module], execution: Execution, compiler: Compiler | None = None
) -> Networks:
    """The forwards of a run: the learning student, the attacked one and each teacher, by `compiler` if given."""
    make = compiler or (lambda network: network)
    return Networks(
        student=forward_of(make(student), execution),
        attacked=forward_of(make(student), execution),
        teachers={role: forward_of(make(teacher), execution) for role, teacher in teachers.items()},
    )


def frozen(teacher: nn.Module, execution: Execution) -> nn.Module:
    """The teacher as the run uses it, on its device. In bf16 a copy: what autocast would cast again and again,
    the weights of convolutions and linear layers, is cast once; normalisation stays in fp32.
    """
    if execution.precision != "bf16":
        return teacher.to(execution.device, execution.dtype)
    half = copy.deepcopy(teacher).to(torch.float32)
    for module in half.modules():
        if isinstance(module, HALF):
            module.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return half.to(execution.device)
