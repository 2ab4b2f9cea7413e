"""Programs of torch.export are judged as the network that they were made of."""

import pytest
import torch
from torch import nn

import robustdistill as rd
from games import Tiny, images
from robustdistill.exported import is_exported

ATTACKS = ["fgsm", "pgd", "aa"]


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    net = Tiny().eval()
    shapes = ({0: torch.export.Dim("batch")},)
    return net, torch.export.export(net, (torch.rand(4, 1, 8, 8),), dynamic_shapes=shapes).module()


def test_verdicts_are_those_of_the_network(pair: tuple[nn.Module, nn.Module]) -> None:
    net, program = pair
    x, _ = images(24)
    with torch.no_grad():
        y = net(x).argmax(1)
    found = [list(rd.evaluate(n, x, y, attacks=ATTACKS, eps=0.02, batch_size=7)) for n in pair]
    for one, other in zip(*found, strict=True):
        assert one.correct.tolist() == other.correct.tolist(), one.attack
    assert 0 < found[0][-1].accuracy < 1
    assert all(p.requires_grad for p in program.parameters())


def test_only_such_programs_are_taken_for_them(pair: tuple[nn.Module, nn.Module]) -> None:
    net, program = pair
    assert is_exported(program)
    assert not is_exported(net)
    assert not is_exported(torch.fx.symbolic_trace(net))
    x, y = images(8)
    assert list(rd.evaluate(torch.fx.symbolic_trace(net), x, y, attacks=["fgsm"], eps=0.02))
