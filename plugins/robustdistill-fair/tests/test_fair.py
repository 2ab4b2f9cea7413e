"""Fair against its formula in float64 numpy, and what is known of it in advance."""

from typing import Any

import numpy as np
import pytest
import torch
from robustdistill_fair import LEAST, Fair
from torch import Tensor

from robustdistill import Logits
from robustdistill.logits import Networks
from robustdistill.losses import ce
from robustdistill.testing import check_modifier

Array = Any
CLASSES = 3


# ---- the formula, literally -----------------------------------------------------------------------------
def expected(kappas: Array, y: Array, beta: float = 2.0, low: float = 5 / 6, high: float = 5 / 2) -> Array:
    """The weights after an epoch in which the examples of labels `y` withstood `kappas` steps."""
    mean = np.array([np.mean(kappas[y == c]) if (y == c).any() else np.nan for c in range(CLASSES)])
    mean = np.where(np.isnan(mean), np.nanmean(mean), mean)
    hard = (1 / np.maximum(mean, LEAST)) ** beta
    return np.clip(hard / hard.mean(), low, high)


# ---- a batch --------------------------------------------------------------------------------------------
def batch(y: list[int]) -> Logits:
    """The pixels of x are the logits."""
    x = torch.nn.functional.one_hot(torch.tensor(y), CLASSES).double()
    return Logits(x, torch.tensor(y), Networks(lambda v: 2 * v))


def host(z: Logits) -> Tensor:
    return z.term("ce", ce(z.s_adv, z.y))


def fooled(y: Tensor) -> Tensor:
    """Images that are classified as the next class."""
    return torch.nn.functional.one_hot((y + 1) % CLASSES, CLASSES).double()


def attack(fair: Fair, y: list[int], kappas: list[int], steps: int = 4) -> Tensor:
    """One step of training in which example i is classified right at the start of `kappas[i]` of the attack's steps."""
    inner, outer = fair.wrap(host, host)
    z = batch(y)
    for step in range(steps):
        right = torch.tensor(kappas)[:, None] > step
        inner(z.at(torch.where(right, z.x, fooled(z.y))))
    return outer(z.update(fooled(z.y)))


CASES = [
    ([0, 1, 2, 0], [4, 2, 1, 2]),
    ([0, 0, 1, 2], [4, 4, 0, 4]),
    ([0, 1, 0, 1], [4, 3, 4, 3]),  # class 2 does not occur
    ([0, 1, 2, 2], [0, 0, 0, 0]),
    ([0, 1, 2, 2], [3, 3, 2, 4]),
]


@pytest.mark.parametrize("params", [{}, {"beta": 1.0}, {"low": 0.1, "high": 10.0}], ids=str)
@pytest.mark.parametrize(("y", "kappas"), CASES)
def test_the_weights_of_the_next_epoch_are_their_formula(
    y: list[int], kappas: list[int], params: dict[str, float]
) -> None:
    fair = Fair(num_classes=CLASSES, **params).double()
    first = attack(fair, y, kappas)
    torch.testing.assert_close(first, attack(Fair(num_classes=CLASSES).double(), y, kappas))  # weights are 1 at first
    attack(fair, y[::-1], kappas[::-1])
    fair.end_epoch()
    np.testing.assert_allclose(fair.weight.numpy(), expected(np.array(kappas), np.array(y), **params))
    torch.testing.assert_close(attack(fair, y, kappas), first * fair.weight[y])


def test_equal_classes_weigh_one() -> None:
    for kappas in ([0, 0, 0], [2, 2, 2], [4, 4, 4]):
        fair = Fair(num_classes=CLASSES).double()
        attack(fair, [0, 1, 2], kappas)
        fair.end_epoch()
        assert fair.weight.tolist() == pytest.approx([1, 1, 1])


def test_a_hard_class_weighs_most_and_within_the_bounds() -> None:
    fair = Fair(num_classes=CLASSES).double()
    attack(fair, [0, 1, 2], [4, 4, 1])
    fair.end_epoch()
    assert fair.weight.tolist() == pytest.approx([5 / 6, 5 / 6, 5 / 2])


def test_an_epoch_counts_for_the_next_one_alone() -> None:
    fair, fresh = Fair(num_classes=CLASSES).double(), Fair(num_classes=CLASSES).double()
    attack(fair, [0, 1, 2], [4, 4, 1])
    fair.end_epoch()
    for each in (fair, fresh):
        attack(each, [0, 1, 2], [1, 4, 4])
        each.end_epoch()
    assert torch.equal(fair.weight, fresh.weight)


def test_without_an_attack_nothing_changes() -> None:
    fair = Fair(num_classes=CLASSES).double()
    _, outer = fair.wrap(host, host)
    z = batch([0, 1, 1])
    for _ in range(2):
        torch.testing.assert_close(outer(z.update(z.x)), host(z.update(z.x)))
        fair.end_epoch()


def test_the_terms_that_it_weighs_are_noted_as_weighed() -> None:
    fair = Fair(num_classes=CLASSES).double()
    fair.weight.copy_(torch.tensor([1.0, 2.0, 0.5]))
    _, outer = fair.wrap(host, host)
    z = batch([0, 1, 2])
    torch.testing.assert_close(outer(z), z.terms["ce"])


def test_state_stays_where_it_is() -> None:
    fair = Fair(num_classes=CLASSES).double()
    places = {name: buffer.data_ptr() for name, buffer in fair.named_buffers()}
    attack(fair, [0, 1, 2], [4, 4, 1])
    fair.end_epoch()
    assert places == {name: buffer.data_ptr() for name, buffer in fair.named_buffers()}


# ---- the contract --------------------------------------------------------------------------------------
def test_it_keeps_the_contract_of_modifiers() -> None:
    check_modifier(Fair, beta=1.0)
