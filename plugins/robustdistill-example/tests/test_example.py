import torch
from robustdistill_example import blend

from robustdistill import Logits
from robustdistill.logits import Networks
from robustdistill.losses import kl
from robustdistill.testing import check_method, check_objective


def batch(y: torch.Tensor) -> Logits:
    torch.manual_seed(0)
    student, teacher = torch.nn.Linear(64, 10), torch.nn.Linear(64, 10)
    networks = Networks(lambda v: student(v.flatten(1)), {"robust": lambda v: teacher(v.flatten(1))})
    x = torch.rand(4, 1, 8, 8)
    return Logits(x, y, networks).at((x + 0.1).clamp(0, 1))


def test_the_ends_of_the_mixture_are_known() -> None:
    z = batch(torch.arange(4))
    torch.testing.assert_close(blend(z, mix=1), kl(z.s_adv, z.t))
    torch.testing.assert_close(blend(z, mix=0), kl(z.s_adv, z.t_adv))


def test_labels_are_not_read() -> None:
    assert torch.equal(blend(batch(torch.arange(4))), blend(batch(9 - torch.arange(4))))


def test_the_objective_keeps_its_contract() -> None:
    for mix in (0.0, 0.3, 1.0):
        check_objective(blend, mix=mix)


def test_the_method_trains() -> None:
    check_method("blend")
