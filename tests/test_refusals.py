"""Inputs that are refused, each on its sentence and with nothing written; and those that look wrong and work."""

import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustdistill as rd
from games import Tiny, images, teacher
from refusals import DOCS, ROWS, SPEC, Row, Single, digits_clean, registry_with, written, wrong
from robustdistill import vetting
from robustdistill.cli import main
from robustdistill.engine.execution import Execution
from robustdistill.errors import RobustDistillError, UserError
from robustdistill.events import Finished, Warned
from robustdistill.plugins import Plugin
from robustdistill.prepare import prepare
from robustdistill.registry import Registry, default_registry
from robustdistill.resolve import resolve
from robustdistill.store.weights import save_weights
from robustdistill.types import Split, Teacher


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what rows refer to, as the current one."""
    monkeypatch.chdir(tmp_path)
    Path("file.txt").touch()
    Path("full").mkdir()
    Path("full", "notes.txt").touch()
    return tmp_path


@pytest.fixture
def three(here: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A data set of three classes, and weights for it."""
    digits = default_registry().get("dataset", "digits")

    def load(directory: Path | None) -> Any:
        splits = digits.load(directory)
        kept = {name: getattr(splits, name) for name in ("train", "holdout", "test")}
        few = {k: type(v)(v.images[v.labels < 3], v.labels[v.labels < 3]) for k, v in kept.items()}
        return type(splits)(**few)

    more = {"register_datasets": {"three": replace(digits, load=load, classes=("0", "1", "2"))}}
    registry = Registry([*default_registry().plugins, Plugin("x", "x", "1", more)])
    monkeypatch.setattr("robustdistill.registry.default_registry", lambda: registry)
    model = registry.get("model", "digits-net").build(num_classes=3, in_channels=1, width=4)
    save_weights(Path("three.safetensors"), model.state_dict())
    return registry


# ---- refused ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_what_cannot_be_is_refused_in_a_sentence_and_writes_nothing(three: Registry, here: Path, row: Row) -> None:
    before = set(here.rglob("*"))
    with pytest.raises(RobustDistillError) as refused:
        row.give()
    assert refused.value.exit_code == row.code
    assert row.says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert set(here.rglob("*")) == before


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({row.what for row in ROWS}) == len(ROWS)


def test_the_documented_table_is_this_one() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert written(page) == page, "run python tests/refusals.py"
    assert page.count("| `rd.evaluate` |") == sum(row.where == "`rd.evaluate`" for row in ROWS)


# ---- not refused --------------------------------------------------------------------------------------------
def warned(**changes: Any) -> list[str]:
    modules = {k: changes.pop(k) for k in ("teacher", "student", "registry") if k in changes}
    events = list(rd.train(SPEC | {"limit_batches": 2, "batch_size": 64} | changes, **modules))
    assert isinstance(events[-1], Finished)
    return [e.message for e in events if isinstance(e, Warned)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attack": {"steps": 0}}, "the attack cannot reach its ball"),
        ({"batch_size": 5000, "limit_batches": None}, "batch_size 5,000 is more than the 1,257 training images"),
        ({"average": {"decay": 0.5}}, "nothing is averaged"),
        ({"schedule": {"name": "cosine", "milestones": [1]}}, "schedule.milestones belong to multistep"),
        ({"method": "sat", "teacher": "digits-clean"}, "sat reads no teacher 'robust'"),
    ],
)
def test_what_is_legal_and_rarely_meant_is_announced(changes: dict[str, Any], sentence: str) -> None:
    spec = {k: v for k, v in changes.items() if k != "teacher"} | (
        {"teachers": {"robust": changes["teacher"]}} if "teacher" in changes else {}
    )
    assert any(sentence in message for message in warned(**spec))


@pytest.mark.parametrize(
    ("changes", "modules"),
    [
        ({"batch_size": 1}, {}),  # BatchNorm over pixels
        ({"batch_size": 8, "limit_batches": 3}, {"student": "single"}),  # never comes to the last batch
        ({"seed": -1}, {}),
        ({"seed": 2**70}, {}),
    ],
)
def test_what_looks_wrong_and_works(changes: dict[str, Any], modules: dict[str, Any]) -> None:
    given = {"student": Single()} if modules else {}
    assert warned(**{"limit_batches": 2} | changes, **given) == []


def test_fewer_than_four_classes_work_with_a_note(three: Registry) -> None:
    images = {v.attack: v for v in rd.evaluate("three.safetensors", data="three", attacks=["aa"], n=3, registry=three)}
    assert any("the targeted DLR loss needs 4 classes" in note for note in images["aa"].alarms)


@pytest.mark.parametrize("name", ["Läufe ✓", "with spaces  in it", "-dash", "日本/深い"])
def test_any_name_is_good_for_a_run(here: Path, name: str) -> None:
    list(rd.train(SPEC | {"limit_batches": 1}, out=name))
    assert (Path(name) / "result.json").exists()
    assert next(iter(rd.evaluate(Path(name), attacks=[], n=10))).accuracy >= 0


def test_a_run_needs_no_home(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    trial = ["--set", "limit_batches=1", "--set", "select.n=10", "--batch-size", "16", "--steps", "1"]
    for line in (["train", "--out", "run", *trial], ["eval", "run", "--attacks", "fgsm", "--n", "10", "--checks", "0"]):
        with pytest.raises(SystemExit) as end:
            main(line)
        assert end.value.code == 0


def test_a_c_locale_spells_every_path(here: Path) -> None:
    line = [sys.executable, "-m", "robustdistill", "train", "--method", "nature", "--out", "Läufe ✓"]
    line += ["--set", "limit_batches=1", "--set", "select.n=10"]
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("Läufe ✓", "result.json").exists()


# ---- teachers ------------------------------------------------------------------------------------------------
def test_a_teacher_in_train_mode_is_put_into_eval_mode_and_frozen() -> None:
    one, two = teacher(), teacher()
    two.train().requires_grad_(True)
    runs = [list(rd.train(SPEC | {"limit_batches": 2, "batch_size": 32}, teacher=t))[-1] for t in (one, two)]
    assert runs[0] == runs[1]
    assert not any(part.training for part in two.modules())
    assert not any(p.requires_grad for p in two.parameters())


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("renamed", "its classes are in another order than the data's ("),
        ("255", "it makes pixels 255 times larger than they should be"),
        ("1/255", "it takes pixels from 0 to 255"),
        ("dark", "it names one class for all of them"),
    ],
)
def test_a_module_that_hardly_beats_guessing_is_announced_with_the_cause(how: str, cause: str) -> None:
    (message,) = warned(teacher=wrong(how), limit_batches=4, batch_size=128)
    assert message.startswith("teacher 'refusals:Wrapped' is right on ")
    assert "of 500 training images; guessing gives 10.0 %: " in message
    assert cause in message


@pytest.mark.parametrize("how", ["right", "logarithms"])
def test_logits_and_logarithms_of_probabilities_are_fine(how: str, caplog: pytest.LogCaptureFixture) -> None:
    assert warned(teacher=wrong(how)) == []
    [said] = caplog.messages
    assert re.fullmatch(r"teacher '.*' is right on \d+\.\d % of \d+ training images; nothing is stated of it .*", said)


def test_of_a_teacher_that_is_as_good_as_stated_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert warned(teachers={"robust": "digits-clean"}) == []
    assert caplog.messages == []


def test_colours_the_other_way_round_are_recognised() -> None:
    class Reads(nn.Module):
        """Says which of three colours is brightest; the images have one each."""

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3)).flip(1) * 9

    y = torch.arange(60) % 3
    x = torch.zeros(60, 3, 4, 4, dtype=torch.uint8)
    x[torch.arange(60), y] = 255
    spec = resolve([SPEC | {"limit_batches": None}], default_registry())
    split, how = Split(x[y != 1], y[y != 1]), Execution(torch.device("cpu"))
    with pytest.raises(UserError, match="it takes colours as blue, green, red"):
        vetting.vet(spec, {"robust": Reads()}, [split], 3, how, default_registry())


def test_a_trial_looks_at_no_more_than_it_sees() -> None:
    seen = list[int]()

    class Counts(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            if not x.is_meta:
                seen.append(len(x))
            return super().forward(x)

    prepared = {"limit_batches": 3, "batch_size": 7}
    counts = Counts()
    registry = default_registry()
    look = vetting.vet
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vetting, "vet", lambda *args: (seen.clear(), look(*args))[1])
        prepare(resolve([SPEC | prepared], registry), registry, teacher=counts)
    assert sum(seen) in (21, 21 * 6)  # once, or with each of five changes to say why
    assert max(seen) == 7


class Draws(Tiny):
    """A teacher whose logits are noisy by torch's global generator, and who counts its calls."""

    def __init__(self) -> None:
        super().__init__(1, 6)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta:
            self.calls += 1  # type: ignore[operator]
        return super().forward(x) + 0.1 * torch.randn(len(x), 10, device=x.device)


def test_the_look_changes_nothing_of_the_run() -> None:
    results, states, calls = [], [], []
    for looks in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not looks:
                patch.setattr(vetting, "vet", lambda *_: [])
            network = Draws().eval()
            torch.manual_seed(3)
            *_, last = rd.train(SPEC | {"limit_batches": 2, "batch_size": 32}, teacher=network)
            assert isinstance(last, Finished)
            results.append(last.result)
            states.append(torch.get_rng_state())
            calls.append(float(network.calls))
    assert results[0] == results[1]
    assert torch.equal(*states)
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    ("right", "n", "clean", "stops", "doubts"),
    [
        (0, 1, 0.9889, False, False),  # one image in a hundred is like that; three points and more, and mere luck
        (10, 16, 0.85, False, False),
        (3, 16, 0.85, True, True),
        (480, 500, 0.9889, False, False),  # no luck, and less than three points
        (478, 500, 0.9889, True, True),
        (406, 500, 0.85, False, False),
        (405, 500, 0.85, False, True),
        (394, 500, 0.85, False, True),
        (393, 500, 0.85, True, True),
        (278, 500, 0.6086, False, True),
        (262, 500, 0.6086, True, True),
        (0, 500, 1.0, True, True),
        (500, 500, 1.0, False, False),
    ],
)
def test_three_points_are_too_few_unless_they_are_bad_luck(
    right: int, n: int, clean: float, stops: bool, doubts: bool
) -> None:
    assert vetting.falls_short(right, n, clean) is stops
    assert vetting.falls_short(right, n, clean, vetting.DOUBT) is doubts


def caught(n: int, clean: float, true: float, luck: float) -> float:
    """How often a teacher that is right with the probability `true` falls short, computed."""
    few = (k for k in range(n + 1) if vetting.falls_short(k, n, clean, luck))
    return sum(math.comb(n, k) * true**k * (1 - true) ** (n - k) for k in few)


@pytest.mark.parametrize("n", [1, 16, 100, 500])
@pytest.mark.parametrize("clean", [0.1, 0.6086, 0.85, 0.9244, 0.9889])
def test_a_teacher_as_good_as_stated_is_as_rarely_stopped_as_is_said(n: int, clean: float) -> None:
    assert caught(n, clean, clean, vetting.LUCK) < vetting.LUCK
    assert caught(n, clean, clean, vetting.DOUBT) < vetting.DOUBT


@pytest.mark.slow
def test_worse_teachers_are_caught_as_often_as_is_said() -> None:
    told = " ".join((vetting.falls_short.__doc__ or "").split())
    for luck in (vetting.LUCK, vetting.DOUBT):
        shares = [100 * caught(500, 0.85, 0.85 - points / 100, luck) for points in (5, 8, 10, 12)]
        assert f"in {', '.join(f'{v:.1f}' if 99.5 < v < 99.95 else f'{v:.0f}' for v in shares)} %" in told


class Errs(nn.Module):
    """Reads an image's label off its first pixel, and is wrong where the second is white."""

    def forward(self, x: Tensor) -> Tensor:
        label, wrong = (255 * x[:, 0, 0, 0]).round().long(), x[:, 0, 0, 1] > 0.5
        return 9 * nn.functional.one_hot((label + wrong.long()) % 10, 10).float()


def looked_at(hard: Tensor, clean: float) -> list[str]:
    """What is said of a teacher that errs on the images where `hard`, and of which `clean` is stated."""
    known = Teacher("digits-net", Path("t"), "digits", clean=clean)
    registry = Registry([*default_registry().plugins, Plugin("x", "x", "1", {"register_teachers": {"known": known}})])
    spec = resolve([SPEC | {"teacher": "known", "limit_batches": None}], registry)
    y = torch.arange(len(hard)) % 10
    x = torch.zeros(len(hard), 1, 8, 8, dtype=torch.uint8)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = y, 255 * hard
    return vetting.vet(
        spec,
        {"robust": Errs()},
        [Split(x[:77], y[:77]), Split(x[77:], y[77:])],
        10,
        Execution(torch.device("cpu")),
        registry,
    )


@pytest.mark.parametrize("clean", [0.6086, 0.85, 0.9244])
def test_whatever_images_a_teacher_as_good_as_stated_sees_it_is_not_stopped(clean: float) -> None:
    draws = torch.Generator().manual_seed(0)
    said = [looked_at(torch.rand(500, generator=draws) > clean, clean) for _ in range(60)]
    assert sum(map(len, said)) <= 3


def test_some_points_below_are_doubted_and_more_stop_the_run() -> None:
    hard = torch.arange(500) < 100
    (said,) = looked_at(hard, 0.85)
    assert said.startswith("teacher 'known' is right on 80.0 % of 500 training images and 85.0 % is stated for it, ")
    assert "bad luck in one run of 100; if it is not, look for another order of classes" in said
    with pytest.raises(UserError, match=r"right on 78\.0 % of 500 training images and 85\.0 % is stated for it: look"):
        looked_at(torch.arange(500) < 110, 0.85)
    assert looked_at(torch.arange(500) < 90, 0.85) == []


def test_a_teacher_as_good_as_stated_is_not_spoken_of(here: Path) -> None:
    for batch_size in (1, 128):
        changes = {"limit_batches": 4, "batch_size": batch_size}
        assert warned(teachers={"robust": "t"}, registry=registry_with("right"), **changes) == []


def test_the_accuracy_stated_is_that_of_the_name() -> None:
    registry = default_registry()

    def clean(name: str, data: str = "digits") -> float | None:
        return vetting.stated(resolve([{"teacher": name, "data": data}], registry), "robust", registry)

    assert clean("digits-robust") == 0.9833
    assert clean("wrn-34-10@file.pt", "cifar10") == 0.8492
    assert clean("wrn-34-10@file.pt", "cifar100") is None
    assert clean("file.safetensors") is clean("digits-net@file.pt") is None


@pytest.mark.slow
def test_a_cifar_teacher_is_vetted(shared: Path) -> None:
    data = {"name": "cifar10", "dir": str(shared / "data" / "cifar10-jpeg")}
    weights = str(shared / "teachers" / "rn-18.safetensors")
    spec = SPEC | {"data": data, "teacher": weights, "student": "rn-18", "limit_batches": 4, "batch_size": 10}
    registry = default_registry()
    run = prepare(resolve([spec], registry), registry)
    assert run.warnings == ()
    known = Teacher("rn-18", Path(weights), "cifar10", clean=0.786)
    stated = Registry([*registry.plugins, Plugin("x", "x", "1", {"register_teachers": {"known": known}})])
    prepare(resolve([spec | {"teacher": "known"}], stated), stated)


def test_a_digits_teacher_is_what_is_stated_of_it() -> None:
    assert digits_clean()(images(4)[0]).shape == (4, 10)
    assert warned(teachers={"robust": "digits-clean"}) == []
    with pytest.raises(UserError, match="does not take images"):
        warned(teacher=nn.Linear(3, 10))
