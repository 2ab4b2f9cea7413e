"""How steps are executed: what `auto` chooses, and what bf16 may change."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from games import Tiny, images, teacher
from robustdistill.engine import forwards
from robustdistill.engine.execution import (
    BF16_FLOPS,
    COMPILE_FLOPS,
    RECORD_STEPS,
    Execution,
    Work,
    choose,
    cpu_computes_bf16,
)
from robustdistill.engine.loop import train
from robustdistill.events import Warned
from robustdistill.losses import kl
from runs import run_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BIG = Work(student=1e9, step=1e15, steps=10_000)
SMALL = Work(student=BF16_FLOPS / 2, step=1e9, steps=10_000)
SHORT = Work(student=1e9, step=1e15, steps=RECORD_STEPS - 1)
LIGHT = Work(student=1e9, step=COMPILE_FLOPS / 20_000, steps=10_000)


@pytest.fixture(params=[True, False], ids=["bf16 here", "no bf16 here"])
def bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A machine whose CPU and GPU compute in bf16, and one where neither does."""
    monkeypatch.setattr("robustdistill.engine.execution.cpu_computes_bf16", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: request.param)
    return bool(request.param)


@pytest.mark.parametrize(
    ("device", "work", "mode", "compiled"),
    [
        (CPU, BIG, "eager", False),
        (CPU, SMALL, "eager", False),
        (CUDA, BIG, "graph", True),
        (CUDA, LIGHT, "graph", False),
        (CUDA, SHORT, "eager", False),
    ],
)
def test_auto_is_what_pays_on_the_device(
    device: torch.device, work: Work, mode: str, compiled: bool, bf16: bool
) -> None:
    how, notes = choose("auto", "auto", device, work)
    fast = bf16 and not (device == CPU and work is SMALL)
    assert (how.mode, how.compiled, how.precision, notes) == (mode, compiled, "bf16" if fast else "fp32", ())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("mode", ["eager", "compile", "graph"])
def test_what_is_asked_for_is_done(mode: str, precision: str) -> None:
    how, notes = choose(mode, precision, CUDA, SHORT)
    assert (how.mode, how.precision, how.compiled, notes) == (mode, precision, mode != "eager", ())


def test_graphs_on_a_cpu_are_refused_with_a_sentence() -> None:
    how, notes = choose("graph", "fp32", CPU, BIG)
    assert (how.mode, how.compiled) == ("eager", False)
    assert notes == ("mode graph records CUDA graphs and needs a GPU: running eager",)


def test_what_cannot_be_done_is_told_when_the_run_begins() -> None:
    run = run_of({"method": "nature", "mode": "graph", "epochs": 1, "limit_batches": 2})
    told = [event.message for event in train(run.job, run.state) if isinstance(event, Warned)]
    assert told == ["mode graph records CUDA graphs and needs a GPU: running eager"]


def test_bf16_is_read_off_the_flags_of_the_cpu(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    assert not cpu_computes_bf16(info)
    for flags, has in (("fpu avx2 avx512f", False), ("fpu avx512_bf16", True), ("amx_bf16 amx_tile", True)):
        info.write_text(f"model name\t: some\nflags\t\t: {flags}\n")
        assert cpu_computes_bf16(info) == has


# ---- formats ----------------------------------------------------------------------------------------------
def forward(network: nn.Module, precision: str) -> Any:
    return forwards.forward_of(network, Execution(CPU, "eager", precision))


class Seen(nn.Module):
    """Notes the layout and format of what reaches a convolution and what leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Tiny()
        self.net.conv.register_forward_hook(self.note)

    def note(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        last = inputs[0].is_contiguous(memory_format=torch.channels_last)
        self.seen = (last, output.dtype)

    def forward(self, v: Tensor) -> Tensor:
        out: Tensor = self.net(v)
        return out


@pytest.mark.parametrize(("precision", "inside"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_number_format_ends_at_the_network_s_door(precision: str, inside: torch.dtype) -> None:
    network, x = Seen(), torch.rand(4, 3, 8, 8)[:, :1].contiguous().requires_grad_()
    with torch.autocast("cpu", torch.float16):  # whatever a caller has switched on
        logits = forward(network, precision)(x)
    assert network.seen[1] == inside
    loss = kl(logits, torch.zeros_like(logits)).sum()
    grads = torch.autograd.grad(loss, [x, *network.parameters()])
    assert {loss.dtype, *(g.dtype for g in grads)} == {torch.float32}
    assert grads[0].is_contiguous()


def test_images_reach_a_bf16_network_channels_last() -> None:
    network = Tiny()
    layouts: list[bool] = []
    network.register_forward_pre_hook(
        lambda m, v: layouts.append(v[0].is_contiguous(memory_format=torch.channels_last) and v[0].stride(1) == 1)
    )
    network.conv = nn.Conv2d(3, 4, 3, padding=1, stride=2)
    for precision in ("fp32", "bf16"):
        forward(network, precision)(torch.rand(4, 3, 8, 8))
    assert layouts == [False, True]


def test_a_bf16_teacher_is_a_copy_that_equals_autocast_of_the_original() -> None:
    tutor, (x, _) = teacher(), images()
    how = Execution(CPU, "eager", "bf16")
    half = forwards.frozen(tutor, how)
    assert half is not tutor
    assert (half.conv.weight.dtype, half.bn.weight.dtype, tutor.conv.weight.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )
    assert torch.equal(forwards.forward_of(half, how)(x), forwards.forward_of(tutor, how)(x))
    assert not half.training
    assert not any(p.requires_grad for p in half.parameters())
    assert forwards.frozen(tutor, Execution(CPU)) is tutor


# ---- the compiler -----------------------------------------------------------------------------------------
def test_compiled_networks_run_for_full_batches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def fake(network: nn.Module, dynamic: bool) -> Any:
        assert not dynamic
        compiled.append(network)
        return lambda v: network(v) + 1

    monkeypatch.setattr(torch, "compile", fake)
    network, compiler = Tiny().eval(), forwards.Compiler(batch_size=8, enabled=True)
    made = compiler(network)
    assert not compiled  # until it is called
    x, _ = images(8)
    for _ in range(2):
        assert torch.equal(made(x), network(x) + 1)
    assert compiled == [network]
    assert torch.equal(made(x[:5]), network(x[:5]))
    compiler.enabled = False
    assert torch.equal(made(x), network(x))
    assert not forwards.Compiler(8, enabled=False)(network)(x).isnan().any()
    assert compiled == [network]


def test_student_attacked_and_teacher_are_compiled_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: compiled.append(network) or network)
    student, tutor = Tiny(), teacher()
    nets = forwards.networks(student, {"robust": tutor}, Execution(CPU), forwards.Compiler(8, enabled=True))
    x, _ = images(8)
    assert nets.attacked is not None
    for network in (nets.student, nets.attacked, nets.teachers["robust"]):
        network(x)
    assert compiled == [student, student, tutor]
