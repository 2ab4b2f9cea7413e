"""Alarms of gradient masking: each has a culprit that raises it, and sound networks raise none."""

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from games import Tiny, images
from robustdistill.builtin.attacks import CLEAN, FGSM, PGD_SAT
from robustdistill.evaluation import comparisons, diagnostics
from robustdistill.evaluation.alarms import MEANING
from robustdistill.evaluation.blackbox import noise, squares, transferred
from robustdistill.evaluation.comparisons import curve_alarms, excess
from robustdistill.evaluation.curves import Point, curves, radii
from robustdistill.evaluation.diagnostics import diagnose
from robustdistill.evaluation.examples import choose, examples
from robustdistill.evaluation.suite import judge
from robustdistill.evaluation.verdict import Verdict
from robustdistill.judging import find_target
from robustdistill.registry import default_registry
from robustdistill.types import Attack

PGD = Attack(PGD_SAT.run, PGD_SAT.objective, {**PGD_SAT.params, "steps": 5})
Layer = Callable[[Tensor], Tensor]


def make(name: str, index: int) -> torch.Generator:
    assert name == "pgd", "the generators of `eval` know registered attacks only"
    return torch.Generator().manual_seed(index)


@functools.cache
def digits(n: int = 48) -> tuple[Tensor, Tensor]:
    test = default_registry().get("dataset", "digits").load(None).test
    return test.images[:n] / 255, test.labels[:n]


@functools.cache
def teacher(name: str = "digits-clean") -> nn.Module:
    return find_target(name, default_registry(), None, None).network.eval()


# ---- culprits ---------------------------------------------------------------------------------------------
class Wrapped(nn.Module):
    """The undefended teacher of the digits behind a layer, or before one."""

    def __init__(self, before: Layer | None = None, after: Layer | None = None) -> None:
        super().__init__()
        self.before, self.network, self.after = before, teacher(), after

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.network(self.before(x) if self.before else x)
        return self.after(z) if self.after else z


def scaled(x: Tensor, factor: Tensor | float) -> Tensor:
    """x itself, to the last bit, with its gradient times `factor`."""
    return x.detach() + factor * (x - x.detach())


def each(condition: Tensor) -> Tensor:
    """+1 for the images with the condition, -1 for the others: their gradient leads the wrong way."""
    return torch.where(condition, 1.0, -1.0)[:, None, None, None]


def only_at_8_bits(x: Tensor) -> Tensor:
    """A right gradient where every pixel is a multiple of 1/255, as FGSM's only step sees it."""
    off = (255 * x.detach() - (255 * x.detach()).round()).abs()
    return scaled(x, each(off.flatten(1).amax(dim=1) < 1e-2))


def only_near_the_images(x: Tensor) -> Tensor:
    """A right gradient within 0.15 of a clean image."""
    distance = (x.detach()[:, None] - digits()[0][None]).abs().flatten(2).amax(dim=2)
    return scaled(x, each(distance.amin(dim=1) < 0.15))


def a_few_pixels_at_a_time(x: Tensor) -> Tensor:
    """Another tenth of the pixels has a gradient at each step."""
    place = 0.618034 * torch.arange(64).view(1, 1, 8, 8)
    return scaled(x, ((place + 97.0 * x.detach().sum(dim=(1, 2, 3), keepdim=True)) % 1 < 0.1).float())


def for_lucky_starts(x: Tensor) -> Tensor:
    """A gradient for a third of the values of one pixel, which it leaves alone."""
    key = (x.detach()[:, 0, 4, 4] * 997.0) % 1
    factor = ((key > 0.6) & (key < 0.95)).float()[:, None, None, None].repeat(1, 1, 8, 8)
    factor[:, 0, 4, 4] = 0
    return scaled(x, factor)


def noisy_if_marked(x: Tensor) -> Tensor:
    return x + 0.01 * torch.randn_like(x) * (x[:, :, :1, :1] == 1)


@dataclass(frozen=True)
class Culprit:
    """A network with one fault, and where to look for it."""

    network: Callable[[], nn.Module]
    n: int = 24
    eps: float = 0.2
    steps: tuple[int, ...] = ()
    multiples: tuple[float, ...] = ()
    transfer: bool = False
    runs: bool = True


def wrong_way(**where: Any) -> Culprit:
    return Culprit(lambda: Wrapped(lambda x: scaled(x, -1.0)), n=48, **where)


CULPRITS = {
    "nan-gradient": Culprit(lambda: Wrapped(lambda x: x + 0 * x.sqrt()), runs=False),
    "zero-gradient": Culprit(lambda: Wrapped(lambda x: x.detach()), runs=False),
    "saturated-logits": Culprit(lambda: Wrapped(after=lambda z: 1000 * z), runs=False),
    "probabilities": Culprit(lambda: Wrapped(after=lambda z: z.softmax(dim=1))),
    "quantised-logits": Culprit(lambda: Wrapped(after=torch.round), runs=False),
    "step-function": Culprit(lambda: Wrapped(lambda x: x + ((8 * x).floor() / 8 - x).detach())),
    "randomised": Culprit(lambda: Wrapped(noisy_if_marked)),
    "fgsm-beats-pgd": Culprit(lambda: Wrapped(only_at_8_bits), n=48),
    "noise-beats-pgd": wrong_way(eps=0.4),
    "black-box-beats-white-box": wrong_way(eps=0.4),
    "transfer-beats-white-box": wrong_way(transfer=True),
    "never-falls": wrong_way(),
    "not-monotone": Culprit(lambda: Wrapped(only_near_the_images), n=48, eps=0.1, multiples=(4,)),
    "more-steps-gain": Culprit(lambda: Wrapped(a_few_pixels_at_a_time), n=48, steps=(40,)),
    "more-restarts-gain": Culprit(lambda: Wrapped(for_lucky_starts), n=48),
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "NOISES", 10)
    monkeypatch.setattr(diagnostics, "SQUARES", 30)


def test_every_alarm_has_its_culprit_and_its_paragraph() -> None:
    page = (Path(__file__).parents[1] / "docs" / "alarms.md").read_text(encoding="utf-8")
    paragraphs = re.findall(r"^## `(.*)`\n\n(\w.*)", page, re.MULTILINE)
    assert [name for name, _ in paragraphs] == list(MEANING)
    assert CULPRITS.keys() == MEANING.keys()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", CULPRITS)
def test_each_culprit_raises_its_alarm(name: str) -> None:
    culprit = CULPRITS[name]
    x, y = (v[: culprit.n].clone() for v in digits())
    x[-1, 0, 0, 0] = 1.0  # the mark, far from the first batch
    points, alarms = diagnose(
        culprit.network(),
        x,
        y,
        PGD,
        {},
        eps=culprit.eps,
        generator=make,
        at_once=20,
        multiples=culprit.multiples,
        steps=culprit.steps,
        transfer=teacher() if culprit.transfer else None,
    )
    assert bool(points) == culprit.runs
    found = {a.name: a.sentence for a in alarms}
    assert name in found
    assert found[name].endswith(f"{MEANING[name]}.")
    assert re.search(r"\d", found[name].removesuffix(f"{MEANING[name]}."))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["digits-robust", "digits-clean"])
def test_sound_networks_raise_no_alarm(name: str) -> None:
    attack = Attack(PGD.run, PGD.objective, {**PGD.params, "steps": 10})
    where: dict[str, Any] = {"multiples": (0, 1 / 2, 2), "steps": (1, 40), "transfer": teacher("digits-robust")}
    points, alarms = diagnose(teacher(name), *digits(100), attack, {}, eps=0.2, generator=make, **where)
    assert not alarms
    assert [p.verdict.eps for p in points if p.curve == "eps"] == [0, 0.1, 0.2, 0.4, 0.5]


# ---- comparisons ------------------------------------------------------------------------------------------
def broken(n: int, *which: range) -> Tensor:
    correct = torch.ones(n, dtype=torch.bool)
    for places in which:
        correct[list(places)] = False
    return correct


def test_an_excess_takes_ten_images_and_counts_both_ways() -> None:
    none = broken(100)
    assert excess(broken(100, range(9)), none) == 0
    assert excess(broken(100, range(10)), none) == pytest.approx((10 - 3 * 10**0.5) / 100)
    assert excess(none, broken(100, range(50))) < 0
    one, two = broken(100, range(40)), broken(100, range(30, 50))
    assert excess(one, two) == pytest.approx((30 - 10 - 3 * 40**0.5) / 100)


def test_attacks_of_equal_strength_seldom_differ() -> None:
    g = torch.Generator().manual_seed(0)
    one, two = (torch.rand(4000, 200, generator=g) < 0.5 for _ in range(2))
    alarms = sum(excess(a, b) > 0 for a, b in zip(one, two, strict=True))
    assert 0 < alarms < 4000 / 300


def verdict(correct: Tensor, eps: float = 0.1) -> Verdict:
    return Verdict("pgd", eps, correct, torch.arange(len(correct)) % 10, {}, 0.0)


def curve(eps: dict[float, int], steps: dict[int, int]) -> list[Point]:
    """A curve over 100 images of which the given numbers are broken."""
    over_eps = [Point("eps", 20, verdict(broken(100, range(k)), e)) for e, k in eps.items()]
    return [*over_eps, *(Point("steps", s, verdict(broken(100, range(k)))) for s, k in steps.items())]


@pytest.mark.parametrize(
    ("eps", "steps", "names"),
    [
        ({0: 1, 0.1: 50, 0.5: 100}, {1: 20, 20: 50, 100: 51}, []),
        ({0: 1, 0.1: 50, 0.5: 92}, {20: 50, 100: 50}, []),
        ({0: 1, 0.1: 50, 0.5: 70}, {20: 50, 100: 50}, ["never-falls"]),
        ({0: 1, 0.1: 100, 0.2: 80, 0.5: 100}, {20: 100, 100: 100}, ["not-monotone"]),
        ({0: 1, 0.1: 100, 0.2: 95, 0.5: 100}, {20: 100, 100: 100}, []),
        ({0: 1, 0.1: 50, 0.5: 100}, {20: 50, 100: 70}, ["more-steps-gain"]),
        ({0: 1, 0.1: 50, 0.4: 50}, {20: 50, 100: 40}, []),
    ],
)
def test_alarms_of_curves(eps: dict[float, int], steps: dict[int, int], names: list[str]) -> None:
    assert [a.name for a in curve_alarms(curve(eps, steps))] == names


def test_what_is_known_is_used() -> None:
    """FGSM's verdict is taken as it is given; what cw broke is no discovery of the black box."""
    left = {"pgd": broken(100), "fgsm": broken(100), "noise": broken(100), "squares": broken(100, range(50))}
    told = [a.name for a in comparisons.attack_alarms(left)]
    assert told == ["black-box-beats-white-box"]
    assert not list(comparisons.attack_alarms({**left, "cw": broken(100, range(45))}))
    given = {"fgsm": verdict(broken(20, range(20)), 0.2)}
    network, (x, y) = Tiny(), images(20)
    y = network.eval()(x).argmax(dim=1)
    _, alarms = diagnose(network, x, y, PGD, given, eps=0.001, generator=make, multiples=(), steps=())
    assert "fgsm-beats-pgd" in [a.name for a in alarms]


# ---- curves -----------------------------------------------------------------------------------------------
def test_radii_double_up_to_grey() -> None:
    assert radii(0.2) == pytest.approx([0, 0.05, 0.1, 0.2, 0.4, 0.5])
    assert radii(8 / 255) == pytest.approx([0, *(2.0**k / 255 for k in range(1, 7)), 0.5])
    assert radii(0.3, (0, 2)) == [0, 0.3, 0.5]


def test_points_of_the_curves_are_verdicts_of_the_attack() -> None:
    network, (x, y) = Tiny(), images(20)
    common: dict[str, Any] = {"eps": 0.2, "generator": make}
    points = list(curves(network, x, y, PGD, steps=(1, 2), **common))
    assert [(p.curve, p.steps) for p in points] == [("eps", 5)] * 6 + [("steps", k) for k in (1, 2, 5)]
    assert torch.equal(points[0].verdict.correct, judge(network, x, y, "pgd", CLEAN, **common).correct)
    assert torch.equal(points[3].verdict.correct, judge(network, x, y, "pgd", PGD, **common).correct)
    assert points[3].verdict is points[-1].verdict
    plain = points[-1].plain()
    assert list(plain) == ["curve", "attack", "eps", "steps", "accuracy", "n", "interval95"]
    assert (plain["curve"], plain["attack"], plain["eps"], plain["steps"], plain["n"]) == ("steps", "pgd", 0.2, 5, 20)
    low, high = plain["interval95"]
    assert low <= plain["accuracy"] <= high
    json.dumps(plain)


class Counting(Tiny):
    """Counts its forwards, those for a gradient apart; draws from torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients = self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            self.gradients += 1
        else:
            self.forwards += 1
        return super().forward(x + 0 * torch.rand_like(x))


def test_the_cost_is_as_told_and_everything_is_left_as_it_was_found() -> None:
    network, (x, y) = Counting().train(), images(4)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = torch.get_rng_state()
    list(curves(network, x, y, PGD_SAT, eps=0.2, generator=make))
    told = re.search(r"at eps 0.2: (\d+) gradients \(at 8/255: (\d+)\)", curves.__doc__ or "")
    assert told is not None
    assert network.gradients == int(told[1])
    assert int(told[2]) == network.gradients + 2 * 20
    torch.set_rng_state(state)
    network.gradients = network.forwards = 0
    diagnose(network, x, y, PGD_SAT, {}, eps=0.2, generator=make)
    told = re.search(r"eps 0.2: (\d+) gradients and (\d+) forwards", diagnose.__doc__ or "")
    assert told is not None
    assert (network.gradients, network.forwards) == (int(told[1]), int(told[2]))
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


# ---- attacks without gradients ----------------------------------------------------------------------------
@pytest.mark.parametrize("run", [noise, squares])
def test_more_queries_break_more_and_draws_repeat(run: Any) -> None:
    x, y = digits()

    def left(queries: int, eps: float = 0.3) -> Tensor:
        attack = Attack(run, None, {"queries": queries})
        return judge(teacher(), x, y, "pgd", attack, eps=eps, generator=make).correct

    few, many = left(1), left(20)
    assert many.sum() < few.sum()
    assert torch.equal(many, left(20))
    if run is noise:
        assert not (many & ~few).any(), "the first draw is among the twenty"
    assert torch.equal(left(20, eps=0.0), left(0))


def test_a_transfer_attacks_the_other_network() -> None:
    x, y = digits()
    common: dict[str, Any] = {"eps": 0.2, "generator": make}
    direct = judge(teacher(), x, y, "pgd", FGSM, **common).correct
    other = Wrapped(lambda v: v.detach())
    assert torch.equal(judge(other, x, y, "pgd", transferred(teacher(), FGSM), **common).correct, direct)
    robust = teacher("digits-robust").train()
    assert judge(teacher(), x, y, "pgd", transferred(robust, FGSM), **common).accuracy > direct.double().mean()
    assert robust.training
    robust.eval()


# ---- examples ---------------------------------------------------------------------------------------------
def test_examples_are_right_first_and_of_different_classes_first() -> None:
    y = torch.tensor([0, 0, 1, 2, 1, 2])
    right = torch.tensor([True, True, False, True, True, True])
    assert choose(right, y, 3).tolist() == [0, 3, 4]
    assert choose(right, y, 4).tolist() == [0, 3, 4, 1]
    assert choose(right, y, 9).tolist() == [0, 3, 4, 1, 5, 2]


def test_examples_show_what_the_attack_did() -> None:
    x, y = digits()
    shown = examples(teacher(), (255 * x).round().to(torch.uint8), y, PGD, eps=0.2, generator=make, k=10)
    assert {k: tuple(v.shape) for k, v in shown.items()} == {
        "x": (10, 1, 8, 8),
        "x_adv": (10, 1, 8, 8),
        "y": (10,),
        "logits": (10, 10),
        "logits_adv": (10, 10),
    }
    assert len(set(shown["y"].tolist())) == 10
    assert torch.equal(shown["logits"].argmax(dim=1), shown["y"])
    assert (shown["logits_adv"].argmax(dim=1) != shown["y"]).sum() >= 8
    assert 0.1 < (shown["x_adv"] - shown["x"]).abs().max() <= 0.2 + 1e-6
    with torch.no_grad():
        assert torch.allclose(teacher()(shown["x"]), shown["logits"], atol=1e-4)
        assert torch.allclose(teacher()(shown["x_adv"]), shown["logits_adv"], atol=1e-4)
