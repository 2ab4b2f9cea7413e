"""The command line from outside: what it prints, where, with which exit code; a run from `train` to `compare`."""

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from installing import install
from robustdistill import assemble, run
from robustdistill.cli import main
from robustdistill.cli.app import command
from robustdistill.registry import default_registry
from robustdistill.store import rundir, sealed
from robustdistill.store.weights import save_weights

SHORT = ("--epochs", "1", "--set", "limit_batches=2", "--set", "select.n=40", "--batch-size", "32")
TRIAL = (*SHORT, "--steps", "4")
ESCAPE = "\x1b"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]


def rd(*args: object) -> Done:
    """One command in this process, its output as if piped."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main([str(a) for a in args])
    assert isinstance(end.value.code, int)
    return Done(end.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two trained runs, seeds 0 and 1, and the weights of an untrained teacher."""
    path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTDISTILL_PLUGINS", "")
        patch.chdir(path)
        done = rd("train", "--method", "sat", "--seeds", "0,1", *TRIAL)
        assert done.code == 0, done.err
        (path / "trained.txt").write_text(done.out)
        registry = default_registry()
        spec = run.as_spec({"method": "sat", "seed": 9})
        teacher = assemble.build_student(spec, registry.get("dataset", "digits"), registry)
        save_weights(path / "teacher.safetensors", teacher.state_dict())
        yield path


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


RUN = "runs/digits-sat-digits-net-s0"


# ---- help ---------------------------------------------------------------------------------------------------
def test_help_of_every_command_imports_no_torch_and_is_quick() -> None:
    script = """
import contextlib, io, sys
from robustdistill.cli import main
for args in ([], ["--help"], ["--version"], *([c, "-h"] for c in sys.argv[1:]), ["plugins", "list", "--help"]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main(args)
        except SystemExit as end:
            assert end.code == 0, (args, end.code)
    assert out.getvalue().startswith(("Usage: robustdistill", "robustdistill 0")), args
heavy = {"torch", "numpy", "robustdistill.registry"} & set(sys.modules)
assert not heavy, heavy
"""
    began = os.times()
    done = subprocess.run([sys.executable, "-c", script, *command().commands], capture_output=True, text=True)
    seconds = os.times().children_user - began.children_user + os.times().children_system - began.children_system
    assert (done.returncode, done.stderr) == (0, "")
    assert seconds < 0.5 * (len(command().commands) + 4)


def test_the_flags_of_every_command_are_a_closed_list() -> None:
    flags = {
        name: " ".join("/".join(p.opts) if p.param_type_name == "option" else p.name for p in c.params)
        for name, c in command().commands.items()
    }
    study = {
        name: " ".join(o for p in c.params for o in p.opts) for name, c in command().commands["study"].commands.items()
    }
    assert study == {
        "run": "target --profile --out --workers --retry --slurm --dry-run --json",
        "status": "target --profile --out --watch --json",
        "report": "target --profile --out --format --file --publish",
        "work": "path called --since --parent",
    }
    assert flags == {
        "train": "--config/-c --method --inner --outer --with --student --teacher --data --data-dir --eps --steps "
        "--epochs --batch-size --lr --seed --seeds --device --mode --out --set --resume --print-spec --dry-run --json",
        "eval": "target --attacks --data --data-dir --n --eps --batch-size --seed --device --aa-engine --checks "
        "--json --out",
        "list": "kind pattern --json",
        "explain": "name",
        "compare": "runs --format",
        "report": "target --out --figures --format",
        "bench": "--config/-c --method --student --teacher --data --data-dir --batch-size --device --set --rows "
        "--baseline --seconds --json",
        "doctor": "--device --data --data-dir --json",
        "import-teacher": "file --trust-pickle --out --path",
        "plugins": "",
        "study": "",
    }


def test_flags_that_are_not_given_decide_nothing() -> None:
    assert {p.name: p.default for p in command().commands["train"].params if p.default not in (None, ())} == {}


# ---- train --------------------------------------------------------------------------------------------------
def test_several_seeds_end_in_a_table_with_their_mean(here: Path) -> None:
    table = (here / "trained.txt").read_text()
    results = [json.loads((here / f"runs/digits-sat-digits-net-s{s}/result.json").read_text()) for s in (0, 1)]
    assert [r["seed"] for r in results] == [0, 1]
    assert re.search(r"^mean  +\d+\.\d\d ± \d+\.\d\d", table, re.M)
    for r in results:
        tested = [f"{100 * r[w]['test'][a]:.2f}" for w in ("last", "best") for a in ("clean", "pgd-trades")]
        assert re.search(rf"^{r['seed']} +{' +'.join(map(re.escape, tested))}$", table, re.M)
    assert f"next  robustdistill compare {RUN} runs/digits-sat-digits-net-s1" in table


def test_distilling_from_a_file_prints_one_line_an_epoch_and_the_result(here: Path) -> None:
    done = rd("train", "--method", "mmard", "--teacher", "teacher.safetensors", "--out", "m", *TRIAL, "--epochs", "2")
    assert done.code == 0, done.err
    heading, warned, first, second = done.err.splitlines()
    assert heading.startswith("mmard: 2 epochs of 2 steps")
    assert warned.startswith("warning: teacher 'teacher.safetensors' is right on ")
    assert re.match(r"epoch 1/2  loss \S+  lr 0.1  holdout clean \d+\.\d\d  pgd-trades \d+\.\d\d", first)
    assert "  trd/kl 0." in first
    assert " images/s  " in second
    assert re.search(r"^last +2( +\d+\.\d\d){4}$", done.out, re.M)
    assert re.search(r"^best +[12]( +\d+\.\d\d){4}$", done.out, re.M)
    assert "test  64 test images of digits, eps 0.2\nrun   m\nnext  robustdistill eval m\n" in done.out


def test_a_role_names_the_teacher(here: Path) -> None:
    printed = rd("train", "--teacher", "clean=a.pt", "--teacher", "rn-18@b=c.pt", "--print-spec")
    teachers = tomllib.loads(printed.out)["teachers"]
    assert teachers == {"robust": {"name": "rn-18@b=c.pt"}, "clean": {"name": "a.pt"}}


def test_json_is_one_event_a_line_with_the_result_last(here: Path) -> None:
    done = rd("train", "--method", "nature", "--out", "j", "--json", *SHORT)
    kinds = [r["event"] for r in done.records]
    assert kinds == ["started", "stepped", "stepped", "trained", "evaluated", "saved", "finished"]
    assert sealed.read(here / "j/result.json", "") == done.records[-1]["result"]
    assert done.err == ""


def test_json_of_several_seeds_ends_with_their_mean(here: Path) -> None:
    done = rd("train", "--method", "nature", "--seeds", "3,4", "--out", "both", "--json", *SHORT)
    *_, last = done.records
    results = [json.loads((here / f"both/s{s}/result.json").read_text())["best"]["test"]["clean"] for s in (3, 4)]
    assert (last["event"], last["seeds"], last["paths"]) == ("aggregated", [3, 4], ["both/s3", "both/s4"])
    assert last["best"]["clean"]["mean"] == pytest.approx(sum(results) / 2)
    assert rd("train", "--method", "nature", "--seeds", "4,5", "--out", "both", *SHORT).code == 2
    assert not (here / "both/s5").exists()


def test_the_printed_spec_runs_again(here: Path) -> None:
    flags = ("--method", "rslad", "--inner", "kl-teacher-adv", "--with", "awp", "--eps", "8/255", "--set", "seed=5")
    printed = rd("train", *flags, "--steps", "3", "--lr", "0.05", "--print-spec")
    Path("printed.toml").write_text(printed.out)
    assert rd("train", "-c", "printed.toml", "--print-spec") == printed
    spec = tomllib.loads(printed.out)
    assert (spec["inner"]["name"], spec["attack"]["steps"], spec["optim"]["lr"]) == ("kl-teacher-adv", 3, 0.05)
    assert (spec["eps"], spec["seed"], spec["with"][0]["name"]) == (8 / 255, 5, "awp")


def test_later_layers_win(here: Path) -> None:
    Path("one.toml").write_text('epochs = 3\nseed = 3\nbatch_size = 3\nmethod = "sat"\n')
    Path("two.toml").write_text("epochs = 4\nseed = 4\n")
    both = ("-c", "one.toml", "-c", "two.toml", "--set", "seed=5", "--set", "epochs=5", "--epochs", "6")
    spec = tomllib.loads(rd("train", *both, "--print-spec").out)
    assert (spec["batch_size"], spec["seed"], spec["epochs"], spec["method"]) == (3, 5, 6, "sat")
    assert tomllib.loads(rd("train", "--set", "seed=7", "--seed", "0", "--print-spec").out)["seed"] == 0


def test_a_dry_run_tells_what_a_step_costs_and_writes_nothing(here: Path) -> None:
    before = sorted(here.rglob("*"))
    args = ("train", "--method", "mmard", "--teacher", "teacher.safetensors", "--dry-run")
    done = rd(*args)
    assert (done.code, done.err) == (0, "")
    assert "attack: 10 student, 10 robust; of the update: 2 student, 2 robust" in done.out
    assert "digits-net (12,186 parameters)" in done.out
    assert "300 x 10 steps of 128 = 3,000 steps" in done.out
    (facts,) = rd(*args, "--seeds", "1,2", "--json").records
    assert (facts["seeds"], facts["terms"]) == ([1, 2], ["kl", "trd"])
    assert sorted(here.rglob("*")) == before


def test_an_attack_that_cannot_reach_its_ball_is_warned_of(here: Path) -> None:
    done = rd("train", "--method", "sat", "--set", "attack.step=0.001", "--out", "weak", *TRIAL)
    assert (done.code, "warning: the attack cannot reach its ball" in done.err) == (0, True)


def test_a_run_that_stopped_goes_on(here: Path) -> None:
    spec = {"method": "sat", "epochs": 2, "limit_batches": 2, "batch_size": 32, "select": {"n": 40}}
    events = run.train(spec, out="stopped")
    assert any(type(e).__name__ == "Saved" for e in events)
    events.close()  # type: ignore[attr-defined]
    done = rd("train", "--resume", "stopped")
    assert done.code == 0, done.err
    assert "from epoch 2" in done.err
    *_, finished = run.train(spec, out="unbroken")
    assert rundir.open_run(Path("stopped")).read_result() == finished.result


def test_a_run_in_use_is_refused(here: Path) -> None:
    with rundir.open_run(Path(RUN)).locked():
        done = rd("train", "--resume", RUN)
    assert (done.code, "is in use by process" in done.err) == (2, True)


@pytest.mark.parametrize("folder, told", [("cut", "robustdistill train --resume cut"), ("none", "nothing was written")])
def test_an_interrupt_says_how_to_go_on(here: Path, monkeypatch: pytest.MonkeyPatch, folder: str, told: str) -> None:
    def interrupted(spec: object, *, out: Path, stop: object) -> Iterator[object]:
        if folder == "cut":
            rundir.create(out, "", {})
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(run, "train", interrupted)
    done = rd("train", "--method", "sat", "--out", folder)
    assert (done.code, done.out) == (130, "")
    assert done.err == f"interrupted; {'go on with: ' if folder == 'cut' else ''}{told}\n"


# ---- refusals -----------------------------------------------------------------------------------------------
REFUSALS = {
    "train --method mmrad": "unknown method 'mmrad'; did you mean 'mmard'?",
    "train --method sat@offical": "did you mean 'official'?",
    "train --teacher digits-robus": "unknown teacher 'digits-robus'; did you mean 'digits-robust'?",
    "train --set outer.alhpa=1": "unknown key 'outer.alhpa'; did you mean 'alpha'?",
    "train --set epoch=1": "unknown key 'epoch'; did you mean 'epochs'?",
    "train --metod sat": "--method",
    "trian": "Did you mean 'train'?",
    "train --method sat --eps 8": "eps 8 is no radius for pixels in [0, 1]; did you mean 8/255?",
    "eval --eps 8": "eps 8 is no radius for pixels in [0, 1]; did you mean 8/255?",
    "eval --eps x": "eps 'x' is no number",
    "eval --attacks pgd,fsgm": "unknown attack 'fsgm'; did you mean 'fgsm'?",
    "eval runs": "runs is not a run directory: it has no spec.toml",
    "eval --out trained.txt": "trained.txt exists already",
    "eval --out no/such/folder.json": "there is no folder no/such",
    "train --method sat --student digits-net --data cifar10": "CIFAR-10 was not downloaded before, and HF_HUB_OFFLINE",
    "train --method sat --student digits-net --data cifar10 --data-dir nowhere": "there is no folder nowhere",
    f"train --method sat --out {RUN}": "already holds a run. Go on with it by --resume",
    f"train --method sat --out {RUN} --dry-run": "already holds a run. Go on with it by --resume",
    "train --method mtard --teacher robust=digits-robust": "Add --teacher clean=digits-clean",
    "train --method mtard": "Add --teacher clean=digits-clean",
    "train -c missing.toml": "there is no spec file missing.toml",
    f"train --resume {RUN} --lr 1 --set a=b": "takes no --lr, --set; leave them out",
    "train --resume nowhere": "nowhere is not a run directory: it does not exist",
    "train --seeds 0,x": "--seeds '0,x' is no list of seeds; write --seeds 0,1,2",
    "train --seeds 1,1": "names a seed twice",
    "train --seeds 0,1 --seed 1": "--seed and --seeds exclude each other",
    "train --teacher a --teacher b": "two teachers have the role 'robust'",
    "train --device tpu9x": "'tpu9x' is no device",
    "list attack": "there is no list of 'attack'; did you mean 'attacks'?",
    "list methods mmrd*": "none of the methods is named 'mmrd*'; did you mean 'mmard'?",
    "explain mmrd": "nothing is named 'mmrd'; did you mean 'mmard'?",
    "compare nowhere": "nowhere is not a run directory: it does not exist",
    f"compare {RUN} --format markdwon": "there is no format 'markdwon'; did you mean 'markdown'?",
    "report nowhere": "nowhere is not a run directory: it does not exist",
    f"report {RUN} --format pgn": "there is no format 'pgn'; did you mean 'png'?",
    f"report {RUN} --out teacher.safetensors": "teacher.safetensors exists already; choose another --out",
    "import-teacher none.pt": "cannot read the weights none.pt: no such file",
    "import-teacher teacher.safetensors": "is called safetensors already: use it as it is",
    "import-teacher a.pt --out teacher.safetensors": "teacher.safetensors exists already; choose another --out",
    "import-teacher a.pt --out no/t.safetensors": "there is no folder no to hold no/t.safetensors",
    "import-teacher a.pt --path no": "there is no folder no; give --path the folder that holds the module's source",
    f"report {RUN} --out no/report.html": "there is no folder no to hold --out no/report.html",
}


@pytest.mark.parametrize("line", REFUSALS)
def test_refusals_are_one_sentence_and_write_nothing(here: Path, line: str) -> None:
    before = sorted(here.rglob("*"))
    done = rd(*line.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert REFUSALS[line] in done.err
    assert sorted(here.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("line", ["train --method sat", f"eval {RUN}"])
def test_cuda_where_there_is_none(here: Path, line: str) -> None:
    done = rd(*line.split(), "--device", "cuda")
    assert (done.code, "0 CUDA devices" in done.err) == (2, True)


@pytest.mark.parametrize("args", [("train", "--teacher"), ("eval",)])
@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>", b"", b"PK\x03\x04 cut short"])
def test_damaged_weights_end_with_4(here: Path, args: tuple[str, ...], content: bytes) -> None:
    Path("bad.pt").write_bytes(content)
    done = rd(*args, "bad.pt")
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith("error: bad.pt is ")


def test_debug_shows_the_traceback_too(here: Path) -> None:
    done = rd("train", "--method", "nope", "--debug")
    assert done.code == 2
    assert done.err.startswith("Traceback")
    assert "\nerror: unknown method 'nope'" in done.err


def sick(*_: object, **__: object) -> Iterator[object]:
    raise TypeError("this is\nnobody's fault")
    yield


def test_a_bug_shows_its_traceback_with_debug_only(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "train", sick)
    told = "internal error: TypeError: this is nobody's fault; this is a bug of robustdistill: "
    done = rd("train", "--method", "sat", "--out", "bug")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: {told}run the command again with --debug to see where, and report it\n"
    done = rd("train", "--method", "sat", "--out", "bug", "--debug")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Traceback")
    assert ", in sick\n" in done.err
    assert done.err.endswith(f"\nerror: {told}report it\n")


SICK = """
from robustdistill import hookimpl
from robustdistill.types import Augment, Dataset

def load(directory):
    return max(None)

@hookimpl
def register_datasets():
    return {"sick": Dataset(load, ("a", "b"), 1, 8, 0.2, Augment(), "digits-net", "digits-robust")}
"""


def test_the_bug_of_a_plugin_names_the_plugin(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    install(tmp_path, monkeypatch, SICK)
    default_registry.cache_clear()
    request.addfinalizer(default_registry.cache_clear)
    done = rd("train", "--method", "sat", "--data", "sick", "--out", "bug")
    assert done.code == 1
    assert "TypeError: 'NoneType' object is not iterable; this is a bug of the plugin ill of sorry 1.2: run" in done.err
    assert done.err.count("\n") == 1


# ---- eval ---------------------------------------------------------------------------------------------------
def test_eval_judges_a_run_and_keeps_the_verdicts(here: Path) -> None:
    done = rd("eval", RUN, "--n", "40", "--out", "verdicts.json")
    assert done.code == 0, done.err
    assert done.out.startswith(f"{RUN}: 40 test images of digits, eps 0.2\n")
    rows = dict(re.findall(r"^([a-z-]+)  +(.*)$", done.out, re.M))
    assert list(rows) == ["attack", "clean", "fgsm", "pgd", "pgd-trades", "cw", "worst", "next"]
    assert rows.pop("next") == f"robustdistill report {RUN}"
    assert "margin" in rows["cw"]
    assert "CE (not a KL)" in rows["pgd-trades"]
    kept, asked = sealed.read(Path(RUN) / "evaluation.json", ""), json.loads(Path("verdicts.json").read_text())
    examples = hashlib.sha256((Path(RUN) / "examples.safetensors").read_bytes()).hexdigest()
    assert kept == asked | {"examples_sha256": examples}
    assert [v["attack"] for v in kept["verdicts"]] == list(rows)[1:]
    assert all(len(v["correct"]) == 40 for v in kept["verdicts"])
    shown = [f"{100 * v['accuracy']:.2f}" for v in kept["verdicts"]]
    assert all(number in rows[v["attack"]] for number, v in zip(shown, kept["verdicts"], strict=True))
    for name in ("evaluation.json", "examples.safetensors"):
        Path(RUN, name).unlink()


def test_eval_checks_its_attacks_and_keeps_curves_and_images(here: Path) -> None:
    rd("eval", RUN, "--attacks", "fgsm", "--n", "30", "--checks", "12", "--json")
    kept = json.loads((Path(RUN) / "evaluation.json").read_text())
    assert {point["n"] for point in kept["curves"]} == {12}
    assert isinstance(kept["alarms"], list)
    assert (Path(RUN) / "examples.safetensors").exists()
    done = rd("eval", RUN, "--attacks", "fgsm", "--n", "30", "--checks", "0", "--json")
    assert json.loads(done.out.splitlines()[-1])["alarms"] == []
    assert "curves" not in json.loads((Path(RUN) / "evaluation.json").read_text())
    assert not (Path(RUN) / "examples.safetensors").exists()
    Path(f"{RUN}/evaluation.json").unlink()


def kept_of(run: str = RUN) -> dict[str, Any]:
    return sealed.read(Path(run) / "evaluation.json", "")


@pytest.fixture
def unjudged(here: Path) -> Iterator[None]:
    yield
    for name in ("evaluation.json", "examples.safetensors"):
        Path(RUN, name).unlink(missing_ok=True)


@pytest.mark.usefixtures("unjudged")
def test_eval_adds_to_the_verdicts_that_were_reached_alike(here: Path) -> None:
    few = ("--n", "40", "--checks")
    rd("eval", RUN, "--attacks", "fgsm,pgd", *few, "10")
    before = kept_of()
    rd("eval", RUN, "--attacks", "cw", *few, "0", "--batch-size", "20")
    both = kept_of()
    assert [v["attack"] for v in both["verdicts"]] == ["clean", "fgsm", "pgd", "cw", "worst"]
    assert both["verdicts"][1:3] == before["verdicts"][1:3]
    right = [[c == "1" for c in v["correct"]] for v in both["verdicts"]]
    assert right[-1] == [all(each) for each in zip(*right[:-1], strict=True)]
    assert both["verdicts"][-1]["params"] == {"over": ["clean", "fgsm", "pgd", "cw"]}
    assert (both["curves"], both["examples_sha256"]) == (before["curves"], before["examples_sha256"])
    assert (Path(RUN) / "examples.safetensors").exists()
    told = rd("eval", RUN, "--attacks", "clean", *few, "10").out
    left = f"{100 * both['verdicts'][-1]['accuracy']:.2f}"
    assert f"kept beside the earlier verdicts under fgsm, pgd, cw; worst of all of them: {left}\n" in told
    assert [v["correct"] for v in kept_of()["verdicts"]] == [v["correct"] for v in both["verdicts"]]
    rd("eval", RUN, "--attacks", "pgd", "--n", "40", "--seed", "3", "--checks", "0")  # a part may replace a part
    assert [v["attack"] for v in kept_of()["verdicts"]] == ["clean", "pgd", "worst"]


@pytest.mark.usefixtures("unjudged")
def test_eval_does_not_replace_the_verdicts_on_the_whole_test_set(here: Path) -> None:
    assert rd("eval", RUN, "--attacks", "fgsm", "--n", "5", "--checks", "0").code == 0
    whole = ("eval", RUN, "--checks", "0", "--attacks")
    assert "stays as it is" not in rd(*whole, "clean").err
    kept = kept_of()
    assert (kept["n"], kept["whole"]) == (360, True)
    for flags, told in {
        ("--n", "5"): "on 5 images",
        ("--eps", "0.1"): "at eps 0.1",
        ("--seed", "3"): "from seed 3",
        ("--n", "5", "--eps", "0.1", "--json"): "on 5 images, at eps 0.1",
    }.items():
        done = rd(*whole, "fgsm", *flags, "--out", "elsewhere.json")
        assert done.code == 0
        assert "fgsm" in done.out
        assert "robustdistill report" not in done.out
        assert (
            f"evaluation.json stays as it is: it has the verdicts on all 360 test images of digits at eps 0.2, "
            f"and these are {told}. They are shown only; --out FILE keeps them" in done.err
        )
        assert kept_of() == kept
        Path("elsewhere.json").unlink()
    rd(*whole, "fgsm", "--n", "360")  # all of them, by number
    assert [v["attack"] for v in kept_of()["verdicts"]] == ["clean", "fgsm", "worst"]
    assert (kept_of()["whole"], kept_of()["limit"]) == (True, None)
    other = kept_of() | {"fingerprint": "that of an epoch before"}
    sealed.write(Path(RUN) / "evaluation.json", other)
    rd(*whole, "clean")  # the run has gone on: the same images judged anew
    assert [v["attack"] for v in kept_of()["verdicts"]] == ["clean"]
    assert kept_of()["fingerprint"] == kept["fingerprint"]


def test_both_engines_of_autoattack_agree_and_the_cost_is_told_first(here: Path) -> None:
    verdicts = []
    for engine in ("own", "reference"):
        done = rd("eval", "digits-clean", "--attacks", "aa", "--n", "12", "--aa-engine", engine, "--json")
        assert "aa: up to 12 images x 9,724 forwards and gradients" in done.err
        verdicts.append([json.loads(line) for line in done.out.splitlines()][1])
    assert verdicts[0]["correct"] == verdicts[1]["correct"]
    assert [s["name"] for s in verdicts[0]["stages"]] == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert "stages" not in verdicts[1]
    wrong = rd("eval", "digits-clean", "--attacks", "aa", "--aa-engine", "mine")
    assert wrong.code == 2
    assert "'own' or 'reference'" in wrong.err


def test_an_interrupted_eval_goes_on_where_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustdistill.evaluation import suite

    calls: list[str] = []
    right = suite._right

    def tired(job: Any, *rest: Any) -> Any:
        calls.append(job.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return right(job, *rest)

    monkeypatch.setattr(suite, "_right", tired)
    command = ("eval", "digits-robust", "--attacks", "fgsm,pgd", "--n", "20", "--checks", "0", "--json")
    stopped = rd(*command)
    assert stopped.code == 130
    assert "the same command goes on from there" in stopped.err
    rd(*command)
    assert calls == ["clean", "fgsm", "fgsm", "pgd"]
    rd(*command)
    assert calls[4:] == ["clean", "fgsm", "pgd"]  # what is finished leaves nothing behind


def test_eval_does_without_a_cache_that_cannot_be_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    assert rd("eval", "digits-robust", "--attacks", "fgsm", "--n", "5", "--checks", "0", "--json").code == 0


def test_eval_without_a_target_takes_the_newest_run(here: Path) -> None:
    os.utime("runs/digits-sat-digits-net-s1/spec.toml")
    done = rd("eval", "--attacks", "fgsm", "--n", "20", "--json")
    assert [r.get("attack") for r in done.records] == ["clean", "fgsm", "worst", None]
    assert done.records[-1]["target"] == "runs/digits-sat-digits-net-s1"
    Path("runs/digits-sat-digits-net-s1/evaluation.json").unlink()


@pytest.mark.parametrize(
    "target", [f"{RUN}/checkpoints/epoch-0001", "teacher.safetensors", "digits-net@teacher.safetensors"]
)
def test_eval_of_what_is_no_run_keeps_nothing(here: Path, target: str) -> None:
    done = rd("eval", target, "--attacks", "clean", "--n", "20", "--eps", "1/10", "--seed", "3", "--json")
    assert done.code == 0, done.err
    *_, judged = done.records
    assert (judged["eps"], judged["seed"], judged["n"], judged["whole"]) == (0.1, 3, 20, False)
    assert not list(here.glob("runs/*/evaluation.json"))


# ---- compare ------------------------------------------------------------------------------------------------
def test_compare_takes_the_mean_over_seeds(here: Path) -> None:
    tests = [
        json.loads(Path(f"runs/digits-sat-digits-net-s{s}/result.json").read_text())["best"]["test"] for s in (0, 1)
    ]
    (record,) = rd("compare", *sorted(Path("runs").iterdir()), "--format", "json").records
    assert (record["seeds"], record["method"], list(record["best"])) == ([0, 1], "sat", ["clean", "pgd-trades"])
    values = torch.tensor([t["pgd-trades"] for t in tests], dtype=torch.float64)
    assert record["best"]["pgd-trades"] == {"mean": float(values.mean()), "std": float(values.std()), "n": 2}
    mean = f"{100 * values.mean():.2f} ± {100 * values.std():.2f}"
    markdown = rd("compare", "runs", "--format", "markdown").out.splitlines()
    assert len(markdown) == 4
    assert mean in markdown[2]
    assert "| runs/digits-sat-digits-net-s* | sat: ce > sat | digits-net | 0,1   | best" in markdown[2]
    assert mean.replace("±", r"$\pm$") in rd("compare", "runs", "--format", "latex").out
    assert rd("compare", "runs", "--format", "csv").out.count(mean.replace(" ± ", ",")) >= 1
    assert "runs/digits-sat-digits-net-s1: a trial with limit_batches = 2" in rd("compare", "runs").out


def test_compare_prefers_what_eval_found_and_says_how_it_differs(here: Path) -> None:
    rd("eval", RUN, "--attacks", "fgsm", "--n", "20", "--eps", "0.1")
    done = rd("compare", RUN)
    Path(f"{RUN}/evaluation.json").write_text("{}")
    damaged = rd("compare", RUN)
    Path(f"{RUN}/evaluation.json").unlink()
    assert f"{RUN}: best judged on the first 20 test images only" in done.out
    assert f"{RUN}: best judged at eps 0.1, trained at 0.2" in done.out
    assert re.search(r"^ +epoch +clean +fgsm +worst +pgd-trades$", done.out, re.M)
    assert re.search(r"^1 +best( +\d+\.\d){3} +-$", done.out, re.M)
    assert damaged.code == 4


# ---- list, explain, plugins ---------------------------------------------------------------------------------
def test_list_shows_each_kind() -> None:
    everything = rd("list", "--json").records
    for kind in ("methods", "inner", "outer", "attacks", "models", "teachers", "datasets", "modifiers"):
        records = rd("list", kind, "--json").records
        assert records
        assert all(r["summary"] and r["from"].startswith("robustdistill ") and r in everything for r in records)
    assert [r["name"] for r in rd("list", "inner", "kl-t*", "--json").records] == ["kl-teacher", "kl-teacher-adv"]
    assert re.search(r"^cw +CW-inf: margin", rd("list", "attacks").out, re.M)


def test_explain_a_method_and_its_variant() -> None:
    out = rd("explain", "mmard").out
    for told in (
        "KL(S(x'), T(x'))",
        "alpha TRD, c = 0.1 for kl_scale rslad",
        "alpha = 1.0   (>= 0)",
        "teacher_grad = full   (full | detach)",
        "teachers  robust",
        "attack: 10 student, 10 robust; of the update: 2 student, 2 robust",
        "terms     kl + trd",
        "paper (this one)",
        "arXiv 2503.06559",
    ):
        assert told in out
    official = rd("explain", "sat@official").out
    assert "official (this one): attack_bn = train, epochs = 205, schedule.milestones = [102, 154]" in official
    assert "BatchNorm: train" in official


def test_explain_tells_the_choices_of_a_parameter() -> None:
    plain = "none | cifar10 | cifar100 | cifar10-image-std | imagenet | half"
    assert f"normalisation = none   ({plain})" in rd("explain", "rn-18").out
    assert f"normalisation = auto   (auto | {plain})" in rd("explain", "wrn-16-2-swish").out
    assert "stem = default   (default | cifar)" in rd("explain", "timm:test_resnet").out


@pytest.mark.parametrize("kind", ["method", "inner", "outer", "attack", "model", "teacher", "dataset", "modifier"])
def test_everything_that_has_a_name_can_be_explained(kind: str) -> None:
    for name in default_registry().names(kind):
        name = name.format(depth=28, width=10, path="PATH", network="test_resnet")
        done = rd("explain", name)
        assert (done.code, done.err) == (0, "")
        assert f"{name}: " in done.out


# ---- piped --------------------------------------------------------------------------------------------------
def test_what_is_piped_is_plain(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    args = ("train", "--method", "sat", "--out", "piped", *TRIAL)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = subprocess.run([sys.executable, "-m", "robustdistill", *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = [done.stdout, done.stderr, *(rd(*a.split()).out for a in (f"compare {RUN}", "list", "explain sat", "-h"))]
    assert not any(ESCAPE in text or "\r" in text for text in texts)
    assert not any(line != line.rstrip() for text in texts for line in text.splitlines())


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_whoever_stops_reading_sees_no_traceback(unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    args = [sys.executable, "-m", "robustdistill", "--version"]
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(args, stdout=writer, stderr=subprocess.PIPE, text=True, env=env)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
