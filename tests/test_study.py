"""Studies: what their files mean, what stands in their folders, and what a worker does."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustdistill.errors import DamagedFile, Diverged, Stopped, UserError
from robustdistill.registry import default_registry
from robustdistill.store import rundir, sealed
from robustdistill.store.lease import Watcher, machine
from robustdistill.study.cost import cost
from robustdistill.study.folder import Folder, find_folder, progress
from robustdistill.study.items import Item, distinct, items
from robustdistill.study.plan import Study, load_study, profiled, study_of
from studies import TINY, folder, found, study, worker, written

REGISTRY = default_registry()


def ids(one: Study) -> list[str]:
    return [item.id for item in items(one, REGISTRY)]


# ---- what a file means --------------------------------------------------------------------------------------
def test_a_study_is_every_combination_of_its_places_the_last_axis_fastest() -> None:
    these = items(study(), REGISTRY)
    assert [item.places for item in these] == [
        {"method": "sat", "seed": "0"},
        {"method": "sat", "seed": "1"},
        {"method": "rslad", "seed": "0"},
        {"method": "rslad", "seed": "1"},
    ]
    assert [(i.spec.method, i.spec.seed, i.spec.epochs) for i in these if i.spec] == [
        ("sat", 0, 2),
        ("sat", 1, 2),
        ("rslad", 0, 2),
        ("rslad", 1, 2),
    ]


def test_names_of_runs_depend_on_what_decides_their_numbers_and_on_nothing_else() -> None:
    base, known = TINY["base"], ids(study())
    assert len(set(known)) == 4
    assert known[0].startswith("sat-digits-net-digits-robust-s0-")
    assert ids(study(name="other", title="Other", judge={"attacks": ["pgd"]}, plot=None)) == known
    assert set(ids(study(axes={"seed": [1, 0], "method": ["rslad", "sat"]}))) == set(known)
    assert ids(study(base=base | {"device": "auto", "mode": "eager"})) == known
    assert not set(ids(study(base=base | {"epochs": 3}))) & set(known)


def test_places_are_values_of_a_key_or_layers_with_a_label() -> None:
    given = {
        "method": ["mmard", {"label": "two teachers", "method": "mtard", "teachers": {"clean": "digits-clean"}}],
        "outer.alpha": [0.5],
    }
    one, two = items(study(axes={"method": [given["method"][0]], "outer.alpha": [0.5, 0.0]}, plot=None), REGISTRY)
    assert one.spec is not None
    assert two.spec is not None
    assert (one.spec.outer.params["alpha"], two.spec.outer.params["alpha"]) == (0.5, 0.0)
    assert (one.places["outer.alpha"], two.places["outer.alpha"]) == ("0.5", "0.0")
    (three,) = items(study(axes={"method": given["method"][1:]}), REGISTRY)
    assert three.places == {"method": "two teachers"}
    assert three.spec is not None
    assert set(three.spec.teachers) == {"robust", "clean"}


def test_a_place_speaks_with_the_others_and_over_the_base() -> None:
    """Naming a method discards what lower layers say of its objectives, but not what another axis says."""
    axes = {"inner": ["kl-teacher-adv"], "method": ["rslad"]}
    (item,) = items(study(axes=axes), REGISTRY)
    assert item.spec is not None
    assert (item.spec.inner.name, item.spec.outer.name) == ("kl-teacher-adv", "rslad")


def test_combinations_that_mean_the_same_run_share_it() -> None:
    axes = {"method": [{"label": "a", "method": "sat"}, {"label": "b", "method": "sat@paper"}, "sat"]}
    these = items(study(axes=axes), REGISTRY)
    assert len(these) == 3
    assert [item.places["method"] for item in distinct(these)] == ["a", "b"]


def test_what_is_skipped_is_left_out() -> None:
    skip = [{"method": "sat", "seed": 1}, {"method": "rslad", "seed": 0}]
    assert [(i.places["method"], i.places["seed"]) for i in items(study(skip=skip), REGISTRY)] == [
        ("sat", "0"),
        ("rslad", "1"),
    ]


def test_a_profile_goes_over_the_study_and_keeps_its_runs_apart() -> None:
    mini = {"base": {"epochs": 1}, "axes": {"method": ["nature"]}, "title": "Small", "judge": {"attacks": ["pgd"]}}
    whole = study(profiles={"mini": mini}, plot=None)
    small = profiled(whole, "mini")
    assert (whole.called, small.called, small.folder, small.title) == ("tiny", "tiny-mini", "tiny-mini", "Small")
    (item,) = items(small, REGISTRY)
    assert item.spec is not None
    assert (item.spec.method, item.spec.epochs, item.spec.batch_size) == ("nature", 1, 16)
    assert small.judge.attacks == ("pgd",)
    assert profiled(study(folder="both", profiles={"mini": mini}, plot=None), "mini").folder == "both-mini"


def test_a_study_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    one = study(profiles={"mini": {"base": {"epochs": 1}}}, skip=[{"seed": 1}])
    (tmp_path / "a.toml").write_text(one.to_toml())
    assert load_study(tmp_path / "a.toml") == one
    small = profiled(one, "mini")
    (tmp_path / "b.toml").write_text(small.to_toml())
    assert load_study(tmp_path / "b.toml") == small
    assert load_study(tmp_path / "b.toml").called == "tiny-mini"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"axis": {}}, "unknown key 'axis'; did you mean 'axes'?"),
    "unknown key of a profile": (
        {"profiles": {"a": {"axis": {}}}},
        "unknown key 'profiles.a.axis'; did you mean 'axes'",
    ),
    "unknown key of a part": ({"judge": {"attack": ["pgd"]}}, "unknown key 'judge.attack'; did you mean 'attacks'"),
    "no name": ({"name": ""}, "name = ''"),
    "a name that is a path": ({"name": "../x"}, "name = '../x'"),
    "an empty axis": ({"axes": {"seed": []}}, "axis 'seed' has no places"),
    "the same place twice": ({"axes": {"seed": [0, 0]}}, "axis 'seed' has two places called '0'"),
    "a place without a label": ({"axes": {"method": [{"method": "sat"}]}}, "needs a name for tables, label ="),
    "no attack": ({"judge": {"attacks": []}}, "judge.attacks = []"),
    "a radius of pixels": ({"judge": {"eps": 8}}, "judge.eps = 8"),
    "an axis across that is none": ({"table": {"across": ["student"]}}, "names the axis 'student', which it does not"),
    "a plot over no axis": ({"plot": {"x": "metod", "attack": "fgsm"}}, "names the axis 'metod'"),
    "a plot of no attack": ({"plot": {"x": "seed", "attack": "aa"}}, "plots 'aa', under which nothing is judged"),
    "a skipped place that is none": ({"skip": [{"seed": 7}]}, "skips seed = 7, which is no place there"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_file_gets_wrong_is_said(name: str) -> None:
    changes, sentence = BAD[name]
    with pytest.raises(UserError) as caught:
        study_of(TINY | changes, "s.toml")
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("s.toml: ")


def test_a_run_that_cannot_be_is_named_by_its_places() -> None:
    with pytest.raises(UserError, match=r"study 'tiny', method = satt, seed = 0: unknown method 'satt'; did you mean"):
        items(study(axes={"method": ["satt"], "seed": [0]}), REGISTRY)
    with pytest.raises(UserError, match=r"study 'tiny', judge.attacks: unknown attack 'pgdd'; did you mean 'pgd'"):
        items(study(judge={"attacks": ["fgsm", "pgdd"]}, plot=None), REGISTRY)
    with pytest.raises(UserError, match="it takes data, seed, target"):
        items(study(base={}, axes={"target": ["digits-robust"], "epochs": [3]}, plot=None), REGISTRY)


def test_no_such_profile_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no profile 'mino'; did you mean 'mini'"):
        profiled(study(profiles={"mini": {}}), "mino")
    (tmp_path / "a.toml").write_text("name = ")
    with pytest.raises(DamagedFile, match="not readable TOML"):
        load_study(tmp_path / "a.toml")


# ---- what stands in a folder --------------------------------------------------------------------------------
def test_the_folder_of_a_study_is_found_by_its_file_or_by_itself(tmp_path: Path) -> None:
    file = written(tmp_path / "a.toml", folder="shared", profiles={"mini": {}})
    assert find_folder(file, "", tmp_path).path == tmp_path / "shared"
    made = find_folder(file, "mini", tmp_path)
    assert made.path == tmp_path / "shared-mini"
    made.begin()
    assert find_folder(made.path, "", tmp_path) == made
    Folder(made.path, study(name="second")).begin()
    with pytest.raises(UserError, match=r"holds not one study but 2 \(.*second.study.toml"):
        find_folder(made.path, "", tmp_path)
    assert find_folder(made.path / "second.study.toml", "", tmp_path).study.name == "second"


def test_a_failure_is_kept_until_it_is_forgiven(tmp_path: Path) -> None:
    one = folder(tmp_path)
    item, *others = found(one)
    one.fail(item, 5, "out of memory", "there")
    failure = one.failure(item)
    assert failure is not None
    assert (failure.code, failure.sentence, failure.log, failure.lasting) == (5, "out of memory", "there", False)
    assert one.left([item, *others], "2000") == others, "it failed later than the study was started"
    assert one.left([item, *others], "2999") == [item, *others], "started again, it may come out otherwise"
    one.fail(item, 3, "diverged")
    assert one.left([item, *others], "2999") == others, "it will diverge again"
    one.forgive(item)
    assert one.failure(item) is None


# ---- a worker -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The study, done by one worker."""
    one = folder(tmp_path_factory.mktemp("whole"))
    worker(one).work()
    return one


def test_a_worker_does_everything_and_leaves_nothing_but_runs(whole: Folder) -> None:
    assert all(whole.done(item) for item in found(whole))
    names = {p.name for p in whole.path.iterdir()}
    assert names == {item.id for item in found(whole)} | {"logs", "tiny.study.toml"}
    judged = whole.judged(found(whole)[0])
    assert [v["attack"] for v in judged["verdicts"]] == ["clean", "fgsm", "worst"]
    assert (judged["n"], judged["limit"], judged["whole"]) == (30, 30, False)
    assert progress(whole.run(found(whole)[0]))[0] == 2


def test_what_is_done_is_not_done_again(whole: Folder) -> None:
    told: list[Any] = []
    worker(whole, lambda item, event: told.append(event)).work()
    assert told == []


def test_more_attacks_are_judged_without_training_anew_and_keep_the_earlier_verdicts(whole: Folder) -> None:
    more, told = Folder(whole.path, study(judge={"attacks": ["pgd"], "n": 30}, plot=None)), list[Any]()
    assert [more.lacking(item) for item in found(more)] == [["pgd"]] * 4
    worker(more, lambda item, event: told.append(event)).work()
    assert told == ["is judged under pgd", "done"] * 4
    assert more.found(found(more)[0]) == ["clean", "fgsm", "pgd"]
    assert all(whole.done(item) for item in found(whole))


def test_another_radius_or_number_of_images_is_another_judgement(whole: Folder) -> None:
    for judge in ({"attacks": ["fgsm"]}, {"attacks": ["fgsm"], "n": 31}, {"attacks": ["fgsm"], "n": 30, "eps": 0.1}):
        other = Folder(whole.path, study(judge=judge))
        assert other.lacking(found(other)[0]) == ["fgsm"]


def test_a_worker_that_is_stopped_goes_on_where_it_was(tmp_path: Path, whole: Folder) -> None:
    one, steps = folder(tmp_path), list[Any]()
    with pytest.raises(Stopped):
        worker(one, lambda item, event: steps.append(event), stop=lambda: len(steps) > 16).work()
    assert 0 < len([item for item in found(one) if one.done(item)]) < 4
    assert not list(tmp_path.glob("*.lease"))
    worker(one).work()
    for item in found(one):
        assert one.run(item).read_result() == whole.run(item).read_result()
        assert verdicts(one, item) == verdicts(whole, item)


def verdicts(one: Folder, item: Item) -> dict[str, str]:
    return {v["attack"]: v["correct"] for v in one.judged(item)["verdicts"] if v["attack"] in ("clean", "fgsm")}


def test_a_run_in_somebody_elses_hands_is_left_until_it_is_free(tmp_path: Path) -> None:
    one = folder(tmp_path, axes={"method": ["sat", "rslad"]})
    theirs, ours = found(one)
    lease, told = Watcher().take(one.lease(theirs), lambda: None), list[str]()
    assert lease is not None
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        assert one.done(ours)
        assert not one.run(theirs).path.exists()
        lease.__exit__()

    with lease:
        worker(one, lambda item, event: told.append(item.id), pause=pause).work()
    assert pauses
    assert one.done(theirs)


def test_a_run_that_somebody_trains_by_hand_is_left_alone(tmp_path: Path) -> None:
    one = folder(tmp_path, axes={"method": ["sat"]})
    (item,) = found(one)
    worker(one).work()
    (one.run(item).path / rundir.RESULT).unlink()
    assert not one.done(item)
    with one.run(item).locked():
        busy = worker(one, pause=lambda _: None)
        assert not busy.take(item)
    assert not one.lease(item).exists()
    assert one.failure(item) is None


def test_the_run_of_a_worker_that_died_on_another_machine_is_taken_over_with_its_lock(tmp_path: Path) -> None:
    one = folder(tmp_path, axes={"method": ["sat"]})
    (item,) = found(one)
    with pytest.raises(Stopped):
        worker(one, stop=stops_after_begin(one, item)).work()
    gone = {"machine": "elsewhere", "pid": 4711, "born": "99", "since": "2026"}
    one.lease(item).write_text(json.dumps(gone))
    lock = {"pid": 4711, "host": "elsewhere", "born": "99", "since": "2026"}
    (one.run(item).path / rundir.LOCK).write_text(json.dumps(lock))
    clock, told = iter(range(0, 10_000, 40)), list[Any]()
    watcher = Watcher(expiry=60, clock=lambda: float(next(clock)))
    worker(one, lambda i, event: told.append(event), watcher=watcher, pause=lambda _: None).work()
    assert one.done(item)
    assert told[0] == "goes on"


def stops_after_begin(one: Folder, item: Item) -> Callable[[], bool]:
    return lambda: bool(list((one.run(item).path / rundir.CHECKPOINTS).glob("epoch-*")))


def test_the_lock_of_a_living_process_is_not_taken_with_a_dead_lease(tmp_path: Path) -> None:
    one = folder(tmp_path, axes={"method": ["sat"]})
    (item,) = found(one)
    one.run(item).path.mkdir()
    lock = one.run(item).path / rundir.LOCK
    lock.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "born": "", "since": "2026"}))
    one.lease(item).write_text(json.dumps({"machine": machine(), "pid": 2**22 + 1, "born": "", "since": "2026"}))
    assert not worker(one).take(item)
    assert lock.exists()


def test_a_run_that_fails_is_noted_and_the_rest_go_on(tmp_path: Path) -> None:
    rates = [{"label": "bad", "optim": {"lr": 1e30}}, {"label": "good", "optim": {"lr": 0.1}}]
    one = folder(tmp_path, axes={"lr": rates}, plot=None)
    bad, good = found(one)
    with pytest.raises(Diverged):
        worker(one, log="the log").work()
    failure = one.failure(bad)
    assert failure is not None
    assert (failure.code, failure.log, failure.lasting) == (3, "the log", True)
    assert "lower --lr" in failure.sentence
    worker(one).work()
    assert one.done(good)
    assert not one.done(bad)
    assert not list(tmp_path.glob("*.lease"))


def test_targets_are_judged_and_nothing_is_trained(tmp_path: Path) -> None:
    axes = {"target": ["digits-robust", "digits-clean"], "seed": [0]}
    one = folder(tmp_path, base={"data": "digits"}, axes=axes, plot=None, judge={"attacks": ["pgd"], "n": 40})
    worker(one).work()
    robust, clean = (one.judged(item) for item in found(one))
    accuracies = [{v["attack"]: v["accuracy"] for v in j["verdicts"]} for j in (robust, clean)]
    assert accuracies[0]["pgd"] > 0.6 > 0.2 > accuracies[1]["pgd"]
    assert robust["environment"]["torch"]
    assert not list(tmp_path.glob(f"*/{rundir.SPEC}"))


def test_a_changed_verdict_or_failure_is_noticed(tmp_path: Path, whole: Folder) -> None:
    one = folder(tmp_path)
    item = found(one)[0]
    one.fail(item, 5, "out of memory")
    path = next(tmp_path.glob("*.failed.json"))
    path.write_text(path.read_text().replace("memory", "time"))
    with pytest.raises(DamagedFile, match="delete it, and the run is tried again"):
        one.failure(item)


# ---- what it costs ------------------------------------------------------------------------------------------
def test_cost_is_of_the_runs_that_are_asked_for() -> None:
    one = study()
    four = cost(items(one, REGISTRY), one.judge, REGISTRY)
    two = cost(items(one, REGISTRY)[:2], one.judge, REGISTRY)
    assert 0 < two.training < four.training
    assert four.judging == pytest.approx(2 * two.judging), "the student is the same"
    long = study(base=TINY["base"] | {"epochs": 20})
    assert cost(items(long, REGISTRY), long.judge, REGISTRY).training > 5 * four.training


def test_a_run_that_cannot_be_estimated_is_counted(tmp_path: Path) -> None:
    one = study(axes={"teacher": ["digits-net@not-there.safetensors"], "method": ["rslad"]}, plot=None)
    known = cost(items(one, REGISTRY), one.judge, REGISTRY)
    assert known.unknown == 0, "its architecture is named, and that is enough"
    one = study(axes={"teacher": ["not-there.safetensors"], "method": ["rslad"]}, plot=None)
    assert cost(items(one, REGISTRY), one.judge, REGISTRY).unknown == 1


@pytest.mark.parametrize("other", [{}, {"eps": 0.1}, {"seed": 3}, {"n": 5, "limit": 5}], ids=str)
def test_only_verdicts_that_the_study_would_reach_are_taken_for_its_own(other: dict[str, Any], tmp_path: Path) -> None:
    """An `eval` by hand may have been given another radius, other images, another seed."""
    one = folder(tmp_path, judge={"attacks": ["fgsm"]})
    item = items(one.study, REGISTRY)[0]
    one.run(item).path.mkdir(parents=True)
    judged = {"eps": 0.2, "seed": 0, "n": 360, "limit": None, "verdicts": [{"attack": "fgsm"}]} | other
    sealed.write(one.run(item).path / rundir.EVALUATION, judged)
    assert one.lacking(item) == (["fgsm"] if other else [])
