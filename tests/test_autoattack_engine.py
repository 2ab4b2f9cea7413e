"""Our AutoAttack: the official code's verdicts, whatever the physical batch and wherever it was interrupted."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from games import Tiny, images
from robustdistill.errors import UserError
from robustdistill.evaluation.autoattack import apgd, fab, losses, square, units, wave
from robustdistill.evaluation.autoattack.cost import estimate
from robustdistill.evaluation.autoattack.projection import to_hyperplane
from robustdistill.evaluation.autoattack.standard import STANDARD, Part, autoattack
from robustdistill.evaluation.keep import fingerprint
from robustdistill.logits import Forward
from robustdistill.registry import default_registry
from robustdistill.store.partial import Partial
from robustdistill.targets import find_target
from robustdistill.types import Outcome, Progress
from scripts import script

benchmark = script("autoattack")  # it knows how to run the official code
SHORT: tuple[Part, ...] = benchmark.shortened(6, 30)


def network(seed: int = 0) -> nn.Module:
    return Tiny(seed).eval().requires_grad_(False)


def game(n: int = 60, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor, Tensor]:
    """A random network, images, and as labels its own predictions, one in ten of them wrong."""
    net, (x, other) = network(seed).to(dtype), images(n, seed, dtype)
    y = net(x).argmax(dim=1)
    return net, x, torch.where(torch.arange(n) % 10 == 9, other, y)


def run(net: Forward, x: Tensor, y: Tensor, **common: Any) -> Outcome:
    return autoattack(net, x, y, **({"eps": 0.03, "attacks": SHORT, "logical_batch": 16} | common))


def waterfall(outcome: Outcome) -> list[list[bool]]:
    return [s.correct.tolist() for s in outcome.stages]


# ---- the official code's verdicts ---------------------------------------------------------------------------
def same_as_the_official_code(net: nn.Module, x: Tensor, y: Tensor, *, eps: float, batch: int) -> Outcome:
    outcome = autoattack(net, x, y, eps=eps, attacks=SHORT, logical_batch=batch)
    for row, stage in zip(
        benchmark.reference(net, x, y, eps=eps, parts=SHORT, batch=batch), outcome.stages[1:], strict=True
    ):
        assert row.name == stage.name
        assert torch.equal(row.correct, stage.correct), row.name
    return outcome


@pytest.mark.parametrize(("seed", "eps"), [(0, 0.03), (1, 0.02), (2, 0.05)])
def test_verdicts_are_those_of_the_official_code_on_random_networks(seed: int, eps: float) -> None:
    outcome = same_as_the_official_code(*game(90, seed), eps=eps, batch=32)
    counts = [int(s.correct.sum()) for s in outcome.stages]
    assert counts[0] > counts[1] > counts[-1] > 0, "a game that decides nothing tests nothing"


def test_verdicts_are_those_of_the_official_code_on_the_digits() -> None:
    registry = default_registry()
    net = find_target("digits-robust", registry, None, None).network.eval().requires_grad_(False)
    test = registry.get("dataset", "digits").load(None).test
    same_as_the_official_code(net, test.images[:20] / 255, test.labels[:20], eps=0.2, batch=12)


@pytest.mark.parametrize("n", [1, 2])
def test_the_last_image_standing_is_no_special_case(n: int) -> None:
    same_as_the_official_code(*game(n), eps=0.02, batch=32)


# ---- batches ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("physical", [1, 16, 250, 1000])
def test_the_physical_batch_changes_no_verdict(physical: int) -> None:
    net, x, y = game(30)
    assert waterfall(run(net, x, y, physical_batch=physical)) == waterfall(run(net, x, y, physical_batch=37))


def test_no_forward_gets_more_than_the_physical_batch() -> None:
    net, x, y = game()
    sizes = []

    def forward(v: Tensor) -> Tensor:
        sizes.append(len(v))
        out: Tensor = net(v)
        return out

    run(forward, x, y, physical_batch=7)
    assert max(sizes) == 7


def test_memory_layout_and_uint8_change_no_verdict() -> None:
    net, x, y = game()
    raw = (x * 255).round().to(torch.uint8)
    expected = waterfall(run(net, raw / 255, y))
    assert waterfall(run(net, raw, y)) == expected
    assert waterfall(run(net, (raw / 255).to(memory_format=torch.channels_last), y)) == expected


def test_float64_runs_and_stays() -> None:
    net, x, y = game(24, dtype=torch.float64)
    outcome = run(net, x, y)
    assert outcome.x_adv.dtype == torch.float64
    assert 0 < int(outcome.correct.sum()) < 24


def test_an_image_that_several_targets_break_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows written to one place are a race on a GPU: x' could be a mixture of both."""
    net, x, y = game()
    writes, write = list[Tensor](), Tensor.__setitem__

    def noted(self: Tensor, at: Any, value: Any) -> None:
        if self.dim() == 4:
            writes.append(at)
        write(self, at, value)

    monkeypatch.setattr(Tensor, "__setitem__", noted)
    hits = list[int]()
    one_of_each = fab._one_of_each
    monkeypatch.setattr(fab, "_one_of_each", lambda *a: (hits.append(int(a[1].sum())), one_of_each(*a))[1])
    broken, x_adv = fab.fab_t(wave.Wave(net, x, y, 0.25, (len(x),)), steps=8)
    assert all(len(at.unique()) == len(at) for at in writes)
    assert sum(map(len, writes)) < sum(hits)  # some images were hit more than once
    assert not wave.right(net(x_adv[broken]), y[broken]).any()


# ---- what comes back ----------------------------------------------------------------------------------------
def test_images_are_in_the_ball_and_say_the_same_as_the_verdicts() -> None:
    net, x, y = game()
    outcome = run(net, x, y)
    assert (outcome.x_adv - x).abs().max() <= 0.03 + 1e-6
    assert outcome.x_adv.min() >= 0
    assert outcome.x_adv.max() <= 1
    assert torch.equal(net(outcome.x_adv).argmax(1) == y, outcome.correct)
    assert torch.equal(outcome.x_adv[outcome.correct], x[outcome.correct])
    assert [s.name for s in outcome.stages] == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert torch.equal(outcome.stages[0].correct, net(x).argmax(1) == y)
    for before, after in zip(outcome.stages, outcome.stages[1:], strict=False):
        assert not (after.correct & ~before.correct).any()


def test_radius_zero_is_the_clean_accuracy() -> None:
    net, x, y = game(20)
    outcome = run(net, x, y, eps=0.0)
    assert torch.equal(outcome.correct, outcome.stages[0].correct)
    assert torch.equal(outcome.x_adv, x)


def test_nothing_is_left_behind() -> None:
    net, x, y = game(20)
    net.requires_grad_(True)
    before, rng, tracer = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state(), sys.gettrace()
    run(net, x, y)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())
    assert sys.gettrace() is tracer
    assert torch.is_grad_enabled()
    assert not x.requires_grad


def test_a_break_that_a_fresh_forward_denies_does_not_count() -> None:
    net, x, y = game(20)
    lie = Part("lie", lambda w: (torch.ones_like(w.y, dtype=torch.bool), w.x), {}, lambda classes: (0, 0))
    outcome = run(net, x, y, attacks=[lie])
    assert torch.equal(outcome.correct, net(x).argmax(1) == y)
    assert "lie took 18 images for broken" in " ".join(outcome.notes)


def test_an_image_that_the_last_forward_denies_stands_in_every_stage() -> None:
    net, x, y = game(20)
    outcome = run(net, x, y, attacks=[])
    assert outcome.correct.sum() < 20
    calls = 0

    def changing(v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return net(v) if calls <= 9 else losses.true_class(torch.zeros(20, 10), y).float()  # the last call lies

    denied = run(changing, x, y, attacks=[], logical_batch=20, physical_batch=20)
    assert "stand" in " ".join(denied.notes)
    assert denied.stages[0].correct.sum() > outcome.correct.sum()


# ---- refusals and notes -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda n, x, y: (n, x * 255, y), "divide by 255"),
        (lambda n, x, y: (n, x, y.int()), "int64"),
        (lambda n, x, y: (n, x, y + 5), "10 classes"),
        (lambda n, x, y: (n.train(), x, y), "train mode"),
        (lambda n, x, y: (lambda v: n(v.detach()), x, y), "no gradient"),
        (lambda n, x, y: (lambda v: n(v) * float("nan"), x, y), "not finite"),
    ],
)
def test_what_cannot_be_judged_is_refused(change: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run(*change(*game(8)))


def test_a_radius_in_grey_levels_is_refused() -> None:
    with pytest.raises(UserError, match="8/255"):
        run(*game(8), eps=8)


@pytest.mark.parametrize(
    ("wrap", "sentence"),
    [
        (lambda net: lambda v: net(v) + 0.1 * torch.rand(1), "other logits each time"),
        (lambda net: lambda v: net(v).softmax(1), "look like probabilities"),
        (lambda net: lambda v: net(v.round()) + 0 * v.sum(), "no gradient at all"),
    ],
)
def test_doubtful_models_are_noted(wrap: Any, sentence: str) -> None:
    net, x, y = game(8)
    assert sentence in " ".join(run(wrap(net), x, y, attacks=[]).notes)


def test_no_doubt_no_note() -> None:
    assert run(*game(20), attacks=STANDARD[:0]).notes == ()


@pytest.mark.parametrize(("classes", "eps"), [(2, 0.2), (3, 0.1), (4, 0.1)])
def test_few_classes_have_few_targets(classes: int, eps: float) -> None:
    net, x, _ = game(40)
    few: Forward = lambda v: net(v)[:, :classes]  # noqa: E731
    y = few(x).argmax(1)
    outcome = run(few, x, y, eps=eps)
    assert f"have {classes - 1} targets" in outcome.notes[0]
    assert ("plain margin" in " ".join(outcome.notes)) == (classes < 4)
    for part in SHORT[1:3]:
        assert 0 < int(run(few, x, y, eps=eps, attacks=[part]).correct.sum()) < 40


# ---- kept units ---------------------------------------------------------------------------------------------
class Stop(Exception):
    pass


@pytest.mark.parametrize("last", [1, 4, 6, 9, 12])
def test_an_interrupted_run_goes_on_to_the_same_end(last: int, tmp_path: Path) -> None:
    net, x, y = game()
    common: dict[str, Any] = {"keep": Partial(tmp_path / "parts"), "fingerprint": fingerprint(net, x, y)}
    seen: list[Progress] = []

    def stop(at: Progress) -> None:
        seen.append(at)
        if len(seen) == last:
            raise Stop

    with pytest.raises(Stop):
        run(net, x, y, watch=stop, **common)
    assert len(list((tmp_path / "parts").iterdir())) >= last
    calls = count(net)
    resumed, whole = run(calls, x, y, physical_batch=5, **common), run(net, x, y)
    assert waterfall(resumed) == waterfall(whole)
    assert resumed.notes == whole.notes


def count(net: nn.Module) -> Any:
    def forward(v: Tensor) -> Tensor:
        forward.images += len(v)  # type: ignore[attr-defined]
        out: Tensor = net(v)
        return out

    forward.images = 0  # type: ignore[attr-defined]
    return forward


def test_finished_units_are_not_run_again(tmp_path: Path) -> None:
    net, x, y = game(32)
    common: dict[str, Any] = {"keep": Partial(tmp_path), "fingerprint": "a"}
    first, again, other = count(net), count(net), count(net)
    done = run(first, x, y, **common)
    resumed = run(again, x, y, **common)
    assert torch.equal(done.x_adv, resumed.x_adv)
    assert again.images <= 10 * 32 < first.images  # checks, notes and the last forward
    run(other, x, y, **(common | {"fingerprint": "b"}))
    assert other.images == first.images


def test_a_damaged_unit_is_run_again(tmp_path: Path) -> None:
    net, x, y = game(32)
    common: dict[str, Any] = {"keep": Partial(tmp_path), "fingerprint": "a"}
    whole = run(net, x, y, **common)
    for path, content in zip(sorted(tmp_path.iterdir()), (b"", b"\x00" * 9, b"<html>"), strict=False):
        path.write_bytes(content)
    path = sorted(tmp_path.iterdir())[-1]
    path.write_bytes(path.read_bytes()[:-3])
    assert waterfall(run(net, x, y, **common)) == waterfall(whole)


def test_keys_depend_on_all_that_decides() -> None:
    common: dict[str, Any] = {"eps": 0.1, "seed": 0, "fingerprint": "f"}
    ids, params = torch.arange(3), {"steps": 3}
    keys = [units.unit_key("a", params, ids, **common)]
    keys += [units.unit_key("b", params, ids, **common), units.unit_key("a", {"steps": 4}, ids, **common)]
    keys += [units.unit_key("a", params, ids + 1, **common)]
    changes: tuple[Mapping[str, Any], ...] = ({"eps": 0.2}, {"seed": 1}, {"fingerprint": "g"})
    keys += [units.unit_key("a", params, ids, **(common | change)) for change in changes]
    assert len(set(keys)) == 7
    net, x, y = game(4)
    prints = [fingerprint(net, x, y), fingerprint(network(1), x, y), fingerprint(net, x * 0.5, y)]
    assert len({*prints, fingerprint(net, x, y + 1)}) == 4


def test_kept_parts_can_be_cleared(tmp_path: Path) -> None:
    keep = Partial(tmp_path / "parts")
    assert keep.get("a") is None
    keep.put("a", {"v": torch.arange(4).view(2, 2).T})
    found = keep.get("a")
    assert found is not None
    assert torch.equal(found["v"], torch.arange(4).view(2, 2).T)
    keep.clear()
    assert not (tmp_path / "parts").exists()


# ---- progress and cost --------------------------------------------------------------------------------------
def test_watch_hears_of_every_unit() -> None:
    net, x, y = game()
    seen: list[Progress] = []
    outcome = run(net, x, y, watch=seen.append, physical_batch=40)
    assert [s.done for s in seen if s.attack == "clean"] == [1, 2, 3, 4]
    for stage in outcome.stages:
        last = [s for s in seen if s.attack == stage.name][-1]
        assert (last.done, last.standing) == (last.units, int(stage.correct.sum()))


def test_the_estimate_counts_the_passes_of_a_robust_image() -> None:
    steady: Forward = lambda v: torch.eye(10)[torch.zeros(len(v), dtype=torch.long)] * 9 + v.flatten(1)[:, :10] * 0.01  # noqa: E731
    calls: dict[str, int] = {"f": 0, "b": 0}

    def forward(v: Tensor) -> Tensor:
        calls["f"] += len(v)
        calls["b"] += len(v) * torch.is_grad_enabled()
        return steady(v)

    x, y = images(4)[0], torch.zeros(4, dtype=torch.long)
    without = run(forward, x, y, attacks=[])
    start = dict(calls)
    run(forward, x, y)
    cost = estimate(4, 1.0, attacks=SHORT)
    assert without.correct.all()
    assert (cost.forwards - 4, cost.backwards) == (calls["f"] - 2 * start["f"], calls["b"] - 2 * start["b"])


def test_the_estimate_of_the_standard_budgets() -> None:
    cost = estimate(1000, 0.5, forward_flop=2.0)
    assert (cost.forwards, cost.backwards) == (500 * 7813 + 1000, 500 * 1910)
    assert cost.flop == 2.0 * (cost.forwards + cost.backwards)
    assert estimate(1, 1.0, classes=2).backwards == 101 + 101 + 100


# ---- the parts, against oracles -----------------------------------------------------------------------------
def test_targeted_dlr_is_the_papers(rng: np.random.Generator) -> None:
    logits, y = rng.normal(size=(50, 10)), rng.integers(10, size=50)
    target = (y + 1 + rng.integers(9, size=50)) % 10
    p, i = np.sort(logits, axis=1), np.arange(50)
    expected = -(logits[i, y] - logits[i, target]) / (p[:, -1] - 0.5 * (p[:, -3] + p[:, -4]) + 1e-12)
    found = losses.dlr_targeted(*map(torch.from_numpy, (logits, y, target)))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    wrong = np.where(np.arange(10) == y[:, None], -np.inf, logits).max(axis=1)
    np.testing.assert_allclose(losses.margin(*map(torch.from_numpy, (logits, y))), logits[i, y] - wrong)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 2, 16, 3072])
@pytest.mark.parametrize("reach", [0.01, 1.0, 30.0])
def test_projection_is_the_brute_force_one(n: int, reach: float, rng: np.random.Generator) -> None:
    t, w = rng.random((40, n)), rng.normal(size=(40, n)) * rng.exponential(size=(40, n)) ** 3
    t, w = np.where(rng.random((40, n)) < 0.2, t.round(), t), np.where(rng.random((40, n)) < 0.1, 0, w)
    gap = rng.normal(size=40) * reach
    found = to_hyperplane(*map(torch.from_numpy, (t, w, gap))).numpy()
    room = np.where(gap[:, None] * w > 0, t, 1 - t)
    low, high = np.zeros((40, 1)), np.ones((40, 1))
    for _ in range(60):  # bisection for the least lam whose moves close the gap
        lam = (low + high) / 2
        enough = (np.abs(w) * np.minimum(lam, room)).sum(1, keepdims=True) >= np.abs(gap)[:, None]
        low, high = np.where(enough, low, lam), np.where(enough, lam, high)
    np.testing.assert_allclose(found, -np.sign(gap)[:, None] * np.sign(w) * np.minimum(high, room), atol=1e-9)


def test_projection_takes_several_points_for_one_normal() -> None:
    t, w, gap = torch.rand(2, 5, 7), torch.randn(5, 7), torch.randn(2, 5)
    both = to_hyperplane(t, w, gap)
    assert torch.equal(both[1], to_hyperplane(t[1], w, gap[1]))
    assert not to_hyperplane(t, w, gap * 0).any()
    assert not to_hyperplane(t, w * 0, gap).any()


def test_step_sizes_are_checked_when_the_paper_checks_them() -> None:
    assert apgd.checkpoints(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    assert apgd.checkpoints(1) == {1: 1}
    for steps in (3, 10, 37, 100):
        window, least, less = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
        since, found = 0, {}
        for i in range(1, steps + 1):
            since += 1
            if since == window:
                found[i], window, since = window, max(window - less, least), 0
        assert apgd.checkpoints(steps) == found


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (28, 20), (64, 64), (224, 224)])
def test_squares_shrink_as_in_the_official_code(height: int, width: int) -> None:
    from pyautoattack.square import SquareAttack

    attack = SquareAttack(None, eps=0.1, resc_schedule=False)
    for channels in (1, 3):
        features = channels * height * width
        for i in (0, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2001, 4001, 4999, 6001, 8001):
            side = max(round((attack.p_selection(i) * features / channels) ** 0.5), 1)
            assert square.side(i, height, width) == min(side, height, width)


def test_squares_lie_in_the_image_and_have_one_colour_a_channel() -> None:
    proposals = square.squares(torch.rand(2, 30, 5), range(5, 30), 8, 8)
    assert proposals.shape == (25, 2, 3, 8, 8)
    for i, both in enumerate(proposals, 5):
        side = square.side(i, 8, 8)
        assert (both.abs().sum(dim=(2, 3)) == side * side).all()
        assert (both.sum(dim=(2, 3)).abs() == side * side).all()


def test_stretches_cover_every_step_once() -> None:
    for steps in (1, 2, 5, 64, 100, 300):
        found = list(wave.stretches(steps))
        assert [i for stretch in found for i in stretch] == list(range(steps))
    assert [len(s) for s in wave.stretches(300)] == [1, 1, 2, 4, 8, 16, 32, 64, 64, 64, 44]


def test_draws_do_not_depend_on_how_they_are_cut() -> None:
    def streams() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(3) for _ in range(2)]

    torch.manual_seed(3)
    whole, cut = torch.rand(7, 2, 3), streams()
    parts = torch.cat([wave.draw(cut, [n, 0], (2, 3), whole) for n in (3, 0, 4)])
    assert torch.equal(parts, whole)
    assert torch.equal(wave.draw(streams(), [2, 3], (2, 3), whole), torch.cat([whole[:2], whole[:3]]))


# ---- a linear model, where the answer is known --------------------------------------------------------------
def linear(classes: int, n: int = 200) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear model, images away from 0 and 1, labels, and the radius at which each image breaks."""
    g = torch.Generator().manual_seed(0)
    weight, x = torch.randn(classes, 36, generator=g), 0.3 + 0.4 * torch.rand(n, 1, 6, 6, generator=g)

    def net(v: Tensor) -> Tensor:
        return v.flatten(1) @ weight.T

    logits = net(x)
    y = logits.argmax(1)
    lead, slope = logits.gather(1, y[:, None]) - logits, (weight[y][:, None] - weight).abs().sum(-1)
    radius = (lead / slope).masked_fill(losses.true_class(logits, y), torch.inf).amin(1)
    return net, x, y, radius  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("part", "classes", "sharp"),
    [(STANDARD[0], 2, 0.99), (STANDARD[1], 2, 0.99), (STANDARD[1], 5, 0.99), (STANDARD[2], 5, 0.95)],
    ids=lambda v: getattr(v, "name", str(v)),
)
def test_gradient_attacks_find_a_linear_models_radius(part: Part, classes: int, sharp: float) -> None:
    net, x, y, radius = linear(classes)
    eps = float(radius.median())
    correct = autoattack(net, x, y, eps=eps, attacks=[part]).correct
    assert correct[radius > eps * 1.001].all()
    assert not correct[radius < eps * sharp].any()


def test_square_breaks_no_image_beyond_the_radius() -> None:
    """Its squares never reach the last row and column (nor do the official ones), so it needs some slack."""
    net, x, y, radius = linear(2)
    eps = float(radius.quantile(0.9))
    correct = autoattack(net, x, y, eps=eps, attacks=[replace(STANDARD[3], params={"queries": 500})]).correct
    assert correct[radius > eps * 1.001].all()
    assert not correct[radius < eps * 0.4].any()
    assert (radius < eps * 0.4).sum() >= 5


@pytest.fixture(autouse=True)
def no_tracer() -> Iterator[None]:
    """The official code ends tracers; the one that was there goes on."""
    tracer = sys.gettrace()
    yield
    sys.settrace(tracer)
