"""Runs through the Python API: what is kept, what a resume restores, what is refused before anything is written."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustdistill as rd
from games import Tiny, teacher
from robustdistill.engine.state import averaged
from robustdistill.errors import DamagedFile, Diverged, UserError
from robustdistill.events import Evaluated, Event, Finished, Saved, Started, Stepped, Trained, Warned
from robustdistill.store import checkpoint, rundir

SPEC: dict[str, Any] = {
    "method": "mmard",
    "epochs": 3,
    "limit_batches": 3,
    "batch_size": 16,
    "student": {"name": "digits-net", "width": 4},
    "attack": {"steps": 2, "step": "eps/2"},
    "select": {"n": 40},
}


def run(out: Path | None = None, **changes: Any) -> list[Event]:
    return list(rd.train(SPEC | changes, teacher=teacher(), out=out))


def until(events: Iterator[Event], kind: type) -> None:
    for event in events:
        if isinstance(event, kind):
            return


def last(events: list[Event]) -> dict[str, Any]:
    assert isinstance(events[-1], Finished)
    return dict(events[-1].result)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(out)
    return out


def test_events_come_in_order_and_tell_the_story() -> None:
    events = run()
    kinds = [type(e) for e in events]
    assert kinds[0] is Started
    assert kinds[-1] is Finished
    assert kinds.count(Evaluated) == kinds.count(Trained) == 3
    assert Saved not in kinds
    assert kinds.index(Stepped) < kinds.index(Evaluated)
    judged = [e for e in events if isinstance(e, Evaluated)]
    assert [e.epoch for e in judged] == [0, 1, 2]
    assert all(set(e.gradients) == {"kl", "trd"} for e in judged)
    assert all(0 <= e.robust <= 1 for e in judged)
    assert judged[0].best


def test_without_out_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run()
    assert list(tmp_path.iterdir()) == []


def test_the_run_directory_holds_everything(finished: Path) -> None:
    assert {p.name for p in finished.iterdir()} == {
        "spec.toml",
        "environment.json",
        "events.jsonl",
        "checkpoints",
        "result.json",
    }
    result = json.loads((finished / "result.json").read_text())
    assert set(result["best"]["test"]) == {"n", "clean", "pgd-trades"}
    assert result["best"]["test"]["n"] == 48  # limit_batches makes a trial of the evaluation too
    assert len(result["history"]) == 3
    assert result["teachers"]["robust"].endswith("Tiny")
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["data_sha256"]["holdout"].startswith("3d4f644a6ab5")
    assert any("robustdistill.builtin.objectives" in p for p in environment["plugins"])


def test_the_same_spec_twice_gives_the_same_result(finished: Path) -> None:
    assert last(run()) == rundir.open_run(finished).read_result()


def test_another_seed_gives_another_result(finished: Path) -> None:
    assert last(run(seed=1))["history"] != json.loads((finished / "result.json").read_text())["history"]


@pytest.mark.parametrize("changes", [{}, {"average": "ema"}, {"average": "swa"}, {"with": ["awp"]}])
def test_resume_after_an_epoch_equals_the_unbroken_run_bit_for_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, **changes)
    training = rd.train(SPEC | changes, teacher=teacher(), out=broken)
    until(training, Saved)
    until(training, Stepped)  # one step into the second epoch: lost, then taken again
    training.close()
    assert not (broken / "lock").exists()
    resumed = list(rd.resume(broken, teacher=teacher()))
    assert [e.epoch for e in resumed if isinstance(e, Evaluated)] == [1, 2]
    one, two = (checkpoint.latest(p / "checkpoints").checkpoint for p in (whole, broken))
    assert one is not None
    assert two is not None
    assert same(one.weights, two.weights)
    assert same(one.state["optimizer"], two.state["optimizer"])
    assert (whole / "result.json").read_text() == (broken / "result.json").read_text()
    assert [strip(e) for e in read(whole)] == [strip(e) for e in read(broken) if not is_restart(e)]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def read(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def strip(event: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in event.items() if k not in {"time", "seconds", "images_per_second"}}


def is_restart(event: dict[str, Any]) -> bool:
    return event["event"] == "started" and event["start_epoch"] > 0


def test_best_last_and_two_checkpoints_are_kept(finished: Path) -> None:
    names = sorted(p.name for p in (finished / "checkpoints").iterdir())
    kept = [n for n in names if n.startswith("epoch")]
    assert {"epoch-0002", "epoch-0003"} <= set(kept)
    assert len(kept) <= 3
    assert (finished / "checkpoints" / "latest").read_text().strip() == "epoch-0003"
    assert (finished / "checkpoints" / "best").read_text().strip() in kept


def test_load_gives_the_student_that_was_judged(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    for which, key in (("best", "best"), ("latest", "last")):
        network = rd.load(finished, which)
        verdicts = {
            v.attack: v.accuracy for v in rd.evaluate(network, attacks=["pgd-trades"], data="digits", seed=0, n=48)
        }
        assert verdicts["clean"] == pytest.approx(result[key]["test"]["clean"])
        assert verdicts["pgd-trades"] == pytest.approx(result[key]["test"]["pgd-trades"])
        assert not network.training


def test_a_given_student_is_trained_in_place_and_averages_leave_it_alone() -> None:
    student = Tiny()
    before = student.fc.weight.detach().clone()
    list(rd.train(SPEC | {"average": "ema"}, student=student, teacher=teacher()))
    assert not torch.equal(before, student.fc.weight)
    average = averaged(student, "ema", 0.9)
    assert average is not None
    assert average.module is not student


def test_a_teacher_that_nobody_reads_is_announced() -> None:
    warned = [e.message for e in run(method="sat") if isinstance(e, Warned)]
    assert "sat reads no teacher 'robust': the one given is not used" in warned


def test_an_attack_that_cannot_reach_its_ball_is_announced() -> None:
    events = run(attack={"steps": 1, "step": "eps/4"})
    assert any("cannot reach its ball" in e.message for e in events if isinstance(e, Warned))


class NotANumber(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1)[:, :10] * self.scale) / 0


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(Diverged, match="lower --lr"):
        list(rd.train(SPEC | {"method": "sat"}, student=NotANumber()))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "mmrd"}, "did you mean 'mmard'"),
        ({"inner": "kl-techer"}, "did you mean 'kl-teacher'"),
        ({"attack": "pdg"}, "did you mean 'pgd'"),
        ({"select": {"attack": "pgd-trade"}}, "did you mean 'pgd-trades'"),
        ({"teacher": "digits-robst"}, "did you mean 'digits-robust'"),
        ({"student": "digit-net"}, "did you mean 'digits-net'"),
        ({"data": "digit"}, "did you mean 'digits'"),
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"outer": {"alhpa": 1}}, "did you mean 'alpha'"),
        ({"outer": {"alpha": -1}}, "outer.alpha"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"device": "cuda:99"}, "--device cpu"),
        ({"device": "gpu"}, "no device"),
        ({"method": "sat", "data": {"name": "cifar10", "dir": "/nowhere/at/all"}}, "nowhere"),
        ({"teacher": "/nowhere/t.safetensors"}, "nowhere"),
        ({"teacher": "rn-18"}, "rn-18@FILE"),
        ({"teacher": "wrn-34-10", "data": "cifar10"}, "wrn-34-10@FILE"),
        ({"student": "no.such.module:net"}, "cannot be imported"),
    ],
)
def test_refusals_are_sentences_and_write_nothing(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    out = tmp_path / "run"
    with pytest.raises(UserError) as refused:
        list(rd.train(SPEC | changes, out=out))
    assert sentence in str(refused.value)
    assert not out.exists()


def test_networks_that_do_not_fit_the_data_are_refused(tmp_path: Path) -> None:
    from robustdistill.builtin.models import digits_net
    from robustdistill.store.weights import save_weights

    for sizes, sentence in (({"num_classes": 7, "in_channels": 1}, "7"), ({"num_classes": 10, "in_channels": 3}, "3")):
        path = tmp_path / f"{sentence}.safetensors"
        save_weights(path, digits_net.build(width=8, **sizes).state_dict())
        with pytest.raises(UserError, match=sentence):
            list(rd.train(SPEC | {"teacher": str(path)}, out=tmp_path / "run"))


def test_a_named_architecture_takes_its_width_from_the_weights(tmp_path: Path) -> None:
    from robustdistill.builtin.models import digits_net
    from robustdistill.store.weights import save_weights

    path = tmp_path / "t.safetensors"
    save_weights(path, digits_net.build(width=5, num_classes=10, in_channels=1).state_dict())
    events = list(rd.train(SPEC | {"teacher": f"digits-net@{path}", "epochs": 1}))
    assert isinstance(events[-1], Finished)


class WantsMore(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(99, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.flatten(1))
        return logits


def test_a_student_that_does_not_take_the_images_is_named() -> None:
    with pytest.raises(UserError, match=r"WantsMore does not take images"):
        list(rd.train(SPEC, student=WantsMore(), teacher=teacher()))


def test_damaged_teachers_are_refused(tmp_path: Path) -> None:
    page = tmp_path / "teacher.pt"
    page.write_text("<!DOCTYPE html><html><body>Quota exceeded</body></html>")
    with pytest.raises(DamagedFile, match="web page"):
        list(rd.train(SPEC | {"teacher": str(page)}, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_directory_is_never_overwritten(finished: Path) -> None:
    with pytest.raises(UserError, match="already holds a run"):
        run(finished)


def test_a_run_in_use_is_refused(tmp_path: Path) -> None:
    training = rd.train(SPEC, teacher=teacher(), out=tmp_path / "run")
    until(training, Stepped)
    before = (tmp_path / "run" / "events.jsonl").read_text()
    with pytest.raises(UserError, match="in use"):
        list(rd.resume(tmp_path / "run", teacher=teacher()))
    assert (tmp_path / "run" / "events.jsonl").read_text() == before
    training.close()


def test_a_damaged_best_checkpoint_does_not_stop_a_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"
    training = rd.train(SPEC, teacher=teacher(), out=out)
    until(training, Saved)
    until(training, Saved)
    training.close()
    root = out / "checkpoints"
    best = root / checkpoint.noted(root, "best")  # type: ignore[operator]
    latest = root / checkpoint.noted(root, "latest")  # type: ignore[operator]
    for path in {best, latest}:
        (path / "student.safetensors").write_bytes(b"broken")
    if all((p / "student.safetensors").read_bytes() == b"broken" for p in root.glob("epoch-*")):
        with pytest.raises(DamagedFile, match="no good checkpoint"):
            list(rd.resume(out, teacher=teacher()))
        return
    events = list(rd.resume(out, teacher=teacher()))
    assert any("epoch-0002" in e.message for e in events if isinstance(e, Warned))
    assert isinstance(events[-1], Finished)


def test_every_epoch_tells_how_hard_the_terms_pull_judged_or_not() -> None:
    events = run(select={"n": 20, "every": 2})
    trained = [e for e in events if isinstance(e, Trained)]
    assert [e.judged for e in trained] == [False, True, True]
    assert all(set(e.gradients) == {"kl", "trd"} for e in trained)
    assert [e.epoch for e in events if isinstance(e, Evaluated)] == [1, 2]


class WithDropout(Tiny):
    """A student that draws from torch's global generator."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


def test_a_dropout_students_run_depends_on_the_seed_alone() -> None:
    losses = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        events = list(rd.train(SPEC | {"epochs": 1}, student=WithDropout(), teacher=teacher()))
        losses.append([e.loss for e in events if isinstance(e, Stepped)])
        assert torch.equal(before, torch.get_rng_state())
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("layer", "modules", "sentence"),
    [
        ({"teachers": {"robsut": "digits-clean"}}, {}, "reads no teacher 'robsut'"),
        ({"method": "sat", "teacher": "digits-robst"}, {}, "did you mean 'digits-robust'"),
        ({"data": {"name": "digits", "dir": "/somewhere"}}, {}, "takes no --data-dir"),
        ({}, {"teacher": nn.Sequential(nn.Flatten(), nn.Linear(64, 100))}, "10 classes"),
        ({"method": "sat"}, {"student": nn.Sequential(nn.Flatten(), nn.Linear(64, 100))}, "10 classes"),
    ],
)
def test_more_refusals(tmp_path: Path, layer: dict[str, Any], modules: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        list(rd.train(SPEC | layer, out=tmp_path / "run", **modules))
    assert not (tmp_path / "run").exists()


def test_a_student_cannot_be_its_own_teacher() -> None:
    student = Tiny()
    with pytest.raises(UserError, match="its own teacher"):
        list(rd.train(SPEC, student=student, teacher=student))


def test_a_resume_refuses_another_teacher_and_announces_another_place(tmp_path: Path) -> None:
    from robustdistill.builtin.models import digits_net
    from robustdistill.store.weights import save_weights

    path, out = tmp_path / "t.safetensors", tmp_path / "run"
    save_weights(path, digits_net.build(width=4, num_classes=10, in_channels=1).state_dict())
    training = rd.train(SPEC | {"teacher": str(path)}, out=out)
    until(training, Saved)
    training.close()
    kept = path.read_bytes()
    save_weights(path, digits_net.build(width=4, num_classes=10, in_channels=1).state_dict())
    with pytest.raises(UserError, match="not the file that this run began with"):
        list(rd.resume(out))
    path.write_bytes(kept)
    environment = rundir.open_run(out).read_environment()
    other = {"threads": 64, "data_sha256": environment["data_sha256"] | {"test": "0" * 64}}
    (out / "environment.json").write_text(json.dumps(environment | other))
    told = [e.message for e in rd.resume(out) if isinstance(e, Warned)]
    assert any("not bit for bit: threads 64 -> 1" in message for message in told)
    assert "the images are not those that the run began with: their sha256 differs" in told


def test_what_eval_said_goes_when_the_best_epoch_changes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    training = rd.train(SPEC, teacher=teacher(), out=out)
    until(training, Saved)
    (out / "evaluation.json").write_text("{}")
    better = [e for e in training if isinstance(e, Evaluated) and e.best]
    assert (out / "evaluation.json").exists() is not bool(better)


def test_a_trial_is_one_epoch_unless_epochs_says_otherwise() -> None:
    spec = {k: v for k, v in SPEC.items() if k != "epochs"}
    assert [type(e) for e in rd.train(spec, teacher=teacher())].count(Trained) == 1


def test_late_milestones_and_huge_steps_are_announced() -> None:
    from robustdistill.registry import default_registry
    from robustdistill.resolve import advice, resolve

    def told(layer: dict[str, Any]) -> str:
        return " ".join(advice(resolve([layer], default_registry())))

    assert "never drops at epoch 260, 285" in told({"method": "rslad", "epochs": 220})
    assert "crosses the whole ball" in told({"method": "sat", "attack": {"step": 2.0}})
    assert told({"method": "rslad"}) == told({"method": "mmard", "epochs": 5}) == ""


def test_a_run_may_be_the_beginning_of_a_longer_schedule() -> None:
    def told(**changes: Any) -> list[tuple[float, float]]:
        events = run(**changes, method="iad", outer={"begin": 0.5})
        return [(e.lr, e.loss) for e in events if isinstance(e, Trained)]

    whole, beginning = told(epochs=4), told(epochs=2, schedule={"epochs": 4})
    assert beginning == whole[:2]  # the rate, and what the objective makes of the epoch
    assert told(epochs=2) != beginning


def test_a_milestone_behind_the_end_of_a_longer_schedule_alone_is_announced() -> None:
    from robustdistill.registry import default_registry
    from robustdistill.resolve import advice, resolve

    def told(span: int) -> str:
        return " ".join(
            advice(resolve([{"method": "rslad", "epochs": 50, "schedule": {"epochs": span}}], default_registry()))
        )

    assert told(300) == ""
    assert "never drops at epoch 285: the schedule ends after 280" in told(280)


def test_events_are_plain_data() -> None:
    for event in run(epochs=1):
        json.dumps(asdict(event))


def test_an_attack_draws_the_same_noise_in_training_and_in_eval_by_any_of_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from robustdistill.evaluation import suite

    seeds: list[int] = []
    part = suite._part

    def spy(job: Any, rows: slice, generator: Any, at_once: int) -> Any:
        seeds.extend([generator(job.name, rows.start).initial_seed()] if job.name.startswith("pgd") else [])
        return part(job, rows, generator, at_once)

    monkeypatch.setattr(suite, "_part", spy)
    for name in ("pgd", "pgd-sat"):
        run(select={"attack": name}, epochs=1)
        list(rd.evaluate(Tiny(), data="digits", attacks=[name], seed=0, n=20))
    assert len(seeds) > 4
    assert len(set(seeds)) == 1
