"""What the engine gives to units: the number of classes, and to an inner objective the state of the outer one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from games import Tiny, batch, seeded
from robustdistill import assemble
from robustdistill.builtin.objectives import kl_teacher, rslad
from robustdistill.engine.dryrun import dry_step
from robustdistill.engine.state import sgd
from robustdistill.engine.step import MinMax, min_max, step
from robustdistill.errors import UserError
from robustdistill.logits import Logits
from robustdistill.losses import ce
from robustdistill.plugins import Plugin, load_plugins
from robustdistill.registry import Registry
from robustdistill.resolve import resolve
from robustdistill.testing import check_objective
from robustdistill.types import Modifier


class Sharpening(nn.Module):
    """CE(k S(x'), y), k = 1 + the steps taken; `inner` ascends gain times the same."""

    def __init__(self, *, num_classes: int, rate: float = 1.0) -> None:
        super().__init__()
        self.classes, self.rate = num_classes, rate
        self.register_buffer("taken", torch.zeros(()))

    def inner(self, z: Logits, *, gain: float = 1.0) -> Tensor:
        """gain CE(k S(x'), y)."""
        return gain * ce((1 + self.taken) * z.s_adv, z.y)

    def forward(self, z: Logits) -> Tensor:
        loss = ce((1 + self.taken.clone()) * z.s_adv, z.y)
        self.taken.add_(self.rate)
        return loss


class Sized(Modifier):
    """Knows how many classes there are."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.ones(num_classes))


def sized(z: Logits, *, num_classes: int) -> Tensor:
    """A function may ask too."""
    return num_classes * ce(z.s_adv, z.y)


UNITS: dict[str, dict[str, Any]] = {
    "register_inner_objectives": {"sharpening": Sharpening.inner, "sized": sized},
    "register_outer_objectives": {"sharpening": Sharpening, "sized": sized},
    "register_modifiers": {"sized": Sized},
}
REGISTRY = Registry([*load_plugins(), Plugin("mine", "mine", "1", UNITS)])


def game(**layer: Any) -> MinMax:
    spec = resolve([layer], REGISTRY)
    return assemble.build_game(spec, REGISTRY, len(REGISTRY.dataset(spec.data.name, spec.data.dir).classes))


def played(made: MinMax, steps: int) -> nn.Module:
    student = Tiny()
    optimizer = sgd(student.parameters(), lr=0.1, momentum=0, weight_decay=0, nesterov=False)
    for i in range(steps):
        step(made, student, batch(student, seed=i), optimizer, seeded(i))
    return student


def test_an_inner_objective_of_the_outer_ones_class_sees_its_state() -> None:
    made = game(inner={"name": "sharpening", "gain": 2.0}, outer={"name": "sharpening", "rate": 3.0})
    (unit,) = made.units
    played(made, 2)
    assert unit.taken == 6
    z = batch(Tiny())
    torch.testing.assert_close(made.inner(z), 2 * ce(7 * z.s_adv, z.y))


def test_it_is_one_unit_on_device_meta_and_in_checkpoints() -> None:
    made = game(inner="sharpening", outer="sharpening")
    assert list(made.units.state_dict()) == ["0.taken"]
    assert dry_step(made, Tiny(), shape=(2, 1, 8, 8), classes=10).inner == {"student": 10}


def test_each_run_has_its_own() -> None:
    played(game(inner="sharpening", outer="sharpening"), 2)
    assert game(inner="sharpening", outer="sharpening").units[0].taken == 0


@pytest.mark.parametrize("outer", ["rslad", "mtard", "sized"])
def test_with_another_outer_objective_it_is_refused(outer: str) -> None:
    with pytest.raises(UserError, match="is a method of the outer objective Sharpening: it goes with that one only"):
        game(inner="sharpening", outer=outer)


def test_the_outer_objective_goes_with_any_inner_one() -> None:
    assert played(game(inner="kl-teacher", outer="sharpening"), 1)
    assert min_max(kl_teacher, rslad, None).inner is kl_teacher


def test_units_that_ask_are_given_the_datas_number_of_classes() -> None:
    assert game(outer="sharpening").units[0].classes == 10
    assert game(outer="sharpening", data={"name": "cifar100"}).units[0].classes == 100
    made = game(inner="sized", outer="sized", **{"with": "sized"})
    assert made.units[0].weights.shape == (10,)
    z = batch(Tiny())
    torch.testing.assert_close(made.outer(z), 10 * ce(z.s_adv, z.y))


def test_the_classes_of_a_folder_are_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i, name in enumerate(("ant", "bee", "cat") * 8):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "data" / name / f"{i}.png")
    network = {"student": "digits-net", "teachers": {}}
    made = game(inner="ce", outer="sharpening", data=f"imagefolder:{tmp_path / 'data'}", **network)
    assert made.units[0].classes == 3


def test_the_number_of_classes_is_no_parameter_of_a_spec() -> None:
    spec = resolve([{"outer": "sharpening", "with": ["sized"]}], REGISTRY)
    assert spec.outer.params == {"rate": 1.0}
    assert spec.modifiers[0].params == {}
    with pytest.raises(UserError, match="num_classes"):
        resolve([{"outer": {"name": "sharpening", "num_classes": 3}}], REGISTRY)


class Followed(Sharpening):
    """Its state moves inside a no_grad block, which ends while constants are replayed."""

    def forward(self, z: Logits) -> Tensor:
        with torch.no_grad():
            self.taken.lerp_(z.mean(ce(z.s, z.y)), 0.1)
        return ce(z.s_adv, z.y) * (1 + self.taken.clone())


def test_the_contract_checks_give_the_number_of_classes_and_leave_autograd_on() -> None:
    check_objective(Followed)
    assert torch.is_grad_enabled()
