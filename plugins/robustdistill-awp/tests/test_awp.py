"""AWP against its rule in float64 numpy on a network whose gradient is known, and what is known in advance."""

from typing import Any

import numpy as np
import pytest
import torch
from robustdistill_awp import AWP
from torch import Tensor, nn

from robustdistill.testing import check_modifier

Array = Any
LR, DECAY = 0.1, 0.05


class Two(nn.Module):
    """Two weights with more than one dimension, a bias, and statistics that each forward in train mode moves."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.body, self.bn, self.head = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, bias=False)
        for p in self.parameters():
            nn.init.normal_(p, generator=g)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.bn(self.body(x)))
        return out


def cubic(student: Two) -> Tensor:
    """A loss whose gradient in each entry w of a weight is w^2: no forward of the network is needed."""
    return (student.body.weight**3).sum() / 3 + (student.head.weight**3).sum() / 3


# ---- the rule, literally --------------------------------------------------------------------------------
def expected(weights: list[Array], moved: list[bool], gamma: float, whole: bool) -> list[Array]:
    """w <- (w + v) - lr (grad L(w + v) + decay (w + v)) - v with v = gamma ||w|| g / ||g||, g = w^2."""
    chosen = [w for w, m in zip(weights, moved, strict=True) if m]
    lengths = [np.sqrt(sum((w**2).sum() for w in chosen)), np.sqrt(sum((w**4).sum() for w in chosen))]
    out = []
    for w, m in zip(weights, moved, strict=True):
        length, slope = lengths if whole else (np.linalg.norm(w), np.linalg.norm(w**2))
        v = gamma * length * w**2 / slope if m else np.zeros_like(w)
        out.append((w + v) - LR * ((w + v) ** 2 + DECAY * (w + v)) - v)
    return out


def update(awp: AWP, student: Two, loss: Any = cubic) -> Tensor:
    optimizer = torch.optim.SGD(student.parameters(), lr=LR, weight_decay=DECAY)
    return awp.double().update(student.train(), lambda: loss(student), optimizer)


def pair(student: Two) -> list[Array]:
    return [student.body.weight.detach().numpy().copy(), student.head.weight.detach().numpy().copy()]


@pytest.mark.parametrize("gamma", [0.01, 0.5])
@pytest.mark.parametrize(("layers", "moved"), [("", [True, True]), ("^head", [False, True])])
@pytest.mark.parametrize("norm", ["layer", "global"])
def test_a_step_is_the_rule(norm: Any, layers: str, moved: list[bool], gamma: float) -> None:
    student = Two()
    wanted = expected(pair(student), moved, gamma, norm == "global")
    update(AWP(gamma=gamma, layers=layers, norm=norm), student)
    for found, want in zip(pair(student), wanted, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-12)


def test_a_name_that_no_weight_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="no weight of the student has a name that holds 'haed'"):
        update(AWP(layers="haed"), Two())


def test_the_loss_that_it_tells_is_the_one_at_the_moved_weights() -> None:
    student = Two()
    before = float(cubic(student).detach())
    assert float(update(AWP(gamma=0.1), student)) > before


def test_in_the_warm_up_the_step_is_the_plain_one() -> None:
    awp, warm, plain = AWP(gamma=0.5, warmup=2), Two(), Two()
    optimizer = torch.optim.SGD(plain.parameters(), lr=LR, weight_decay=DECAY)
    for epoch in range(3):
        update(awp, warm)
        optimizer.zero_grad()
        torch.autograd.backward(cubic(plain))
        optimizer.step()
        assert torch.equal(warm.body.weight, plain.body.weight) == (epoch < 2)
        awp.end_epoch()


def test_running_statistics_move_once_and_biases_are_not_perturbed() -> None:
    student, seen = Two(), []

    def loss(network: Two) -> Tensor:
        seen.append(network.body.bias.detach().clone())
        out: Tensor = network(torch.rand(5, 4, dtype=torch.float64))
        return out.square().mean()

    update(AWP(), student, loss)
    assert student.bn.num_batches_tracked == 1
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])


def test_frozen_and_unused_weights_stay() -> None:
    student = Two()
    student.body.weight.requires_grad_(False)
    before = pair(student)

    update(AWP(gamma=0.5), student, lambda s: s.head.weight.pow(3).sum() + s.body.bias.sum())
    after = pair(student)
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])


# ---- the contract --------------------------------------------------------------------------------------
@pytest.mark.parametrize("params", [{}, {"norm": "global", "warmup": 1, "layers": "fc"}], ids=str)
def test_it_keeps_the_contract_of_modifiers(params: dict[str, Any]) -> None:
    check_modifier(AWP, **params)
