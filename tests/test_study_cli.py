"""`robustdistill study` as people use it: real processes, killed anywhere, on a few tiny runs."""

import contextlib
import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from robustdistill.cli import main
from robustdistill.registry import default_registry
from robustdistill.store import rundir
from robustdistill.study.folder import Folder, find_folder
from robustdistill.study.items import distinct, items
from studies import TINY, written
from test_stopping import FAULTS, equal

COMMAND = [sys.executable, "-m", "robustdistill"]


def started(*args: str | Path, cwd: Path) -> subprocess.Popen[str]:
    command = [*COMMAND, *map(str, args)]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def done(*args: str | Path, cwd: Path, code: int = 0) -> tuple[str, str]:
    """In a process of its own."""
    process = started(*args, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, (out, err)
    return out, err


def told(*args: str | Path, cwd: Path, code: int = 0) -> tuple[str, str]:
    """The same in this process, for commands that only read."""
    out, err = io.StringIO(), io.StringIO()
    heard = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with contextlib.chdir(cwd), heard[0], heard[1], pytest.raises(SystemExit) as ended:
        main([str(a) for a in args])
    assert ended.value.code == code, (out.getvalue(), err.getvalue())
    return out.getvalue(), err.getvalue()


def at(path: Path, name: str = "runs/tiny") -> Folder:
    return find_folder(path / name, "", path)


def works(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(child) for child in text.split()]


def gone(pids: list[int], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while any(map(works, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(works, pids))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Where the study was run by two workers, and what the command wrote."""
    path = tmp_path_factory.mktemp("study")
    written(path / "tiny.toml")
    return path, *done("study", "tiny.toml", "--workers", "2", cwd=path)


def test_two_workers_do_a_study_and_each_run_is_begun_once(whole: tuple[Path, str, str]) -> None:
    path, out, err = whole
    log = (path / "runs/tiny/logs/workers.log").read_text()
    begun = Counter(re.findall(r"(\d+) (\S+): begins", log))
    assert len(begun) == 4
    assert set(begun.values()) == {1}
    assert len({run for _, run in begun}) == 4
    assert len({pid for pid, _ in begun}) == 2, "both of them work"
    assert "4 waiting of 4 runs" in err
    assert err.count("\ndone  ") == 4
    assert re.search(r"sat +2 +\d+\.\d\d ± ", out)
    assert "the first 30 test images of digits" in out


def test_the_folder_is_one_that_compare_reads(whole: tuple[Path, str, str]) -> None:
    out, _ = told("compare", "runs/tiny", "--format", "csv", cwd=whole[0])
    assert len(out.splitlines()) == 1 + 2 * 2


def test_a_study_does_not_go_among_the_files_of_a_run(tmp_path: Path) -> None:
    run = rundir.create(tmp_path / "runs" / "tiny", "", {}).path
    before = sorted(run.iterdir())
    file = written(tmp_path / "tiny.toml")
    for args in ((), ("--dry-run",), ("--out", "runs/tiny")):
        _, err = told("study", file, *args, cwd=tmp_path, code=2)
        assert err.endswith("runs/tiny holds a run, not the runs of a study; choose another --out\n")
    _, err = told("study", file, "--out", "tiny.toml", cwd=tmp_path, code=2)
    assert err.endswith("tiny.toml is a file, not a directory; choose another --out\n")
    assert sorted(run.iterdir()) == before


def test_status_tells_of_every_run(whole: tuple[Path, str, str]) -> None:
    out, _ = told("study", "status", "tiny.toml", "--json", cwd=whole[0])
    records = [json.loads(line) for line in out.splitlines()]
    assert [(r["method"], r["seed"], r["state"]) for r in records] == [
        ("sat", "0", "done"),
        ("sat", "1", "done"),
        ("rslad", "0", "done"),
        ("rslad", "1", "done"),
    ]
    assert re.fullmatch(r"clean \d+\.\d\d  fgsm \d+\.\d\d  worst \d+\.\d\d", records[0]["told"])
    out, _ = told("study", "status", "runs/tiny", "--watch", cwd=whole[0])
    assert "tiny: 4 done of 4 runs in runs/tiny" in out


@pytest.mark.parametrize("form", ["markdown", "latex", "csv", "json"])
def test_a_report_in_every_format(whole: tuple[Path, str, str], form: str) -> None:
    out, err = told("study", "report", "tiny.toml", "--format", form, cwd=whole[0])
    if form == "json":
        rows = [json.loads(line) for line in out.splitlines()]
        assert [(r["place.method"], r["seeds"]) for r in rows] == [("sat", [0, 1]), ("rslad", [0, 1])]
        two = [folder_accuracy(whole[0], r["place.method"], seed) for r in rows[:1] for seed in (0, 1)]
        assert rows[0]["best.fgsm"] == pytest.approx(sum(two) / 2)
        return
    starts = {"markdown": "| method", "latex": r"\begin{tabular}{llrr}", "csv": "method,seeds,clean,clean std"}
    assert out.startswith(starts[form])
    assert "note: Accuracy of the best epoch" in err


def folder_accuracy(path: Path, method: str, seed: int) -> float:
    one = at(path)
    these = items(one.study, default_registry())
    (item,) = [i for i in these if i.places == {"method": method, "seed": str(seed)}]
    return next(float(v["accuracy"]) for v in one.judged(item)["verdicts"] if v["attack"] == "fgsm")


def test_a_page_holds_table_figure_and_study_and_escapes_its_texts(whole: tuple[Path, str, str]) -> None:
    path = whole[0]
    out, _ = told("study", "report", "tiny.toml", "--format", "html", "--file", "page.html", cwd=path)
    assert out == "page.html\n"
    page = (path / "page.html").read_text()
    assert "<h1>Two methods &amp; two seeds</h1>" in page
    assert page.count("<svg") == 1
    assert "accuracy under fgsm, %" in page
    assert "4 done of 4 runs" in page
    _, err = told("study", "report", "tiny.toml", "--format", "html", "--file", "page.html", cwd=path, code=2)
    assert "page.html exists already" in err


@pytest.mark.parametrize("form, begins", [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_the_figure_as_a_file(whole: tuple[Path, str, str], form: str, begins: bytes) -> None:
    told("study", "report", "tiny.toml", "--format", form, "--file", f"figure.{form}", cwd=whole[0])
    assert (whole[0] / f"figure.{form}").read_bytes().startswith(begins)
    _, err = told("study", "report", "tiny.toml", "--format", form, cwd=whole[0], code=2)
    assert f"{form} is written to a file: add --file study.{form}" in err


def test_rows_are_published_as_flat_files_and_only_whole(whole: tuple[Path, str, str], tmp_path: Path) -> None:
    path = whole[0]
    out, _ = told("study", "report", "tiny.toml", "--publish", tmp_path, cwd=path)
    assert sorted(p.name for p in (tmp_path / "tiny").iterdir()) == ["rslad.json", "sat.json"]
    record = json.loads((tmp_path / "tiny/sat.json").read_text())
    assert all(not isinstance(value, dict) for value in record.values()), "flat"
    assert record["seeds"] == [0, 1]
    assert record["n"] == 30
    assert len(record["specs"]) == 2
    assert record["torch"]
    assert record["device_name"]
    assert out.count("\n") == 2
    written(path / "more.toml", axes={"method": ["sat"], "seed": [0, 1, 2]})
    _, err = told("study", "report", "more.toml", "--publish", tmp_path, cwd=path, code=2)
    assert "1 runs of study 'tiny' are not done; only whole rows are published" in err


def test_a_dry_run_writes_nothing_and_says_what_it_costs(tmp_path: Path) -> None:
    written(tmp_path / "tiny.toml")
    out, _ = told("study", "tiny.toml", "--dry-run", cwd=tmp_path)
    assert "4 waiting of 4 runs" in out
    assert "TFLOP of training" in out
    assert "on an H100" in out
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.toml"]
    out, _ = told("study", "run", "tiny.toml", "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(out)["training_flops"] > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_anywhere_it_ends_as_if_it_never_was(whole: tuple[Path, str, str], tmp_path: Path) -> None:
    """Workers and the command itself are killed at random points; each time the same command goes on."""
    times, kills, chance, began = max(2, min(FAULTS, 10)), 0, random.Random(0), time.monotonic()
    for number in itertools.count():
        folder = tmp_path / str(number)
        folder.mkdir()
        written(folder / "tiny.toml")
        while kills < times and killed_at_a_random_point(folder, chance):
            kills += 1
        ends_as(whole[0], folder)
        if kills == times:
            break
    print(f"{kills} kills of a worker at work, {number + 1} studies, {time.monotonic() - began:.0f} s")


def killed_at_a_random_point(folder: Path, chance: random.Random) -> bool:
    """Whether the study was still at work when one of its processes was killed, and then the command."""
    process = started("study", "tiny.toml", "--workers", "2", cwd=folder)
    mine, until = [process.pid], time.monotonic() + chance.uniform(1, 14)
    while process.poll() is None and time.monotonic() < until:
        mine += [pid for pid in children(process.pid) if pid not in mine]
        time.sleep(0.05)
    at_work = process.poll() is None
    victims = [pid for pid in mine if works(pid)]
    if victims:
        os.kill(chance.choice(victims), signal.SIGKILL)
    mine += [pid for pid in children(process.pid) if pid not in mine]
    process.kill()
    process.communicate()
    assert gone(mine), "workers end when their command has"
    return at_work


def ends_as(whole: Path, folder: Path) -> None:
    """The study in `folder`, started once more, ends as that in `whole`: every run and verdict, and nothing else."""
    _, err = done("study", "tiny.toml", "--workers", "2", cwd=folder)
    one, two = at(folder), at(whole)
    for item in distinct(items(one.study, default_registry())):
        equal(one.run(item).path, two.run(item).path)
        assert verdicts(one, item) == verdicts(two, item)
    assert not list((folder / "runs/tiny").glob("*.lease"))
    assert not list((folder / "runs/tiny").glob("*.failed.json")), err


def verdicts(one: Folder, item: Any) -> dict[str, str]:
    return {v["attack"]: v["correct"] for v in one.judged(item)["verdicts"]}


@pytest.mark.slow
def test_asked_to_stop_it_saves_every_run_and_says_how_to_go_on(tmp_path: Path) -> None:
    base = TINY["base"] | {"epochs": 200}
    written(tmp_path / "tiny.toml", axes={"method": ["sat"], "seed": [0]}, base=base)
    process = started("study", "tiny.toml", cwd=tmp_path)
    checkpoints = tmp_path / "runs/tiny"
    while process.poll() is None and not list(checkpoints.glob("*/checkpoints/epoch-*")):
        time.sleep(0.02)
    workers = children(process.pid)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "every run is saved; go on with: robustdistill study runs/tiny" in err
    assert gone(workers, 1)
    out, _ = told("study", "status", "runs/tiny", "--json", cwd=tmp_path)
    assert json.loads(out)["state"] == "stopped"


def test_failed_runs_are_reported_and_retried_on_demand(tmp_path: Path) -> None:
    file = written(tmp_path / "tiny.toml", axes={"method": ["sat", "rslad"]})
    one = find_folder(file, "", tmp_path / "runs")
    one.begin()
    for item in items(one.study, default_registry()):
        one.fail(item, 3, "it diverged: lower --lr", "logs/workers.log, process 7")
    _, err = told("study", "tiny.toml", cwd=tmp_path, code=1)
    assert "2 of 2 runs failed, the others are done; sat-digits-net-" in err
    assert "it diverged: lower --lr (exit code 3; logs/workers.log, process 7)" in err
    assert "--retry tries them again" in err
    out, _ = told("study", "report", "tiny.toml", "--format", "csv", cwd=tmp_path)
    assert [line.split(",")[:2] for line in out.splitlines()[1:]] == [["sat", "0 of 1"], ["rslad", "0 of 1"]]


def test_a_study_is_not_for_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "tiny.toml")
    monkeypatch.setenv("WORLD_SIZE", "2")
    _, err = done("study", "tiny.toml", cwd=tmp_path, code=2)
    assert "start it without torchrun" in err
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.toml"]


def test_what_names_no_study_is_refused(tmp_path: Path) -> None:
    _, err = told("study", "nothing.toml", cwd=tmp_path, code=2)
    assert "there is no study nothing.toml" in err
    _, err = told("study", "report", "nothing.toml", "--format", "pdf", cwd=tmp_path, code=2)
    assert "there is no format 'pdf'" in err


@pytest.mark.slow
def test_workers_are_submitted_to_a_cluster(tmp_path: Path) -> None:
    """submitit's local executor stands in for SLURM: jobs are processes of this machine."""
    pytest.importorskip("submitit")
    written(tmp_path / "tiny.toml", axes={"method": ["sat"], "seed": [0]})
    _, err = done("study", "tiny.toml", "--workers", "1", "--slurm", "cluster=local,timeout_min=5", cwd=tmp_path)
    assert "submitted 1 workers" in err
    until = time.monotonic() + 120
    state = ""
    while state != "done" and time.monotonic() < until:
        time.sleep(0.5)
        out, _ = told("study", "status", "runs/tiny", "--json", cwd=tmp_path)
        state = json.loads(out)["state"]
    assert state == "done"


@pytest.mark.parametrize(
    "option, sentence",
    [("partion=gpu,cluster=local", "partion"), ("gpu", "--set 'gpu' is no assignment")],
)
def test_options_that_a_cluster_does_not_know_are_named(tmp_path: Path, option: str, sentence: str) -> None:
    pytest.importorskip("submitit")
    written(tmp_path / "tiny.toml", axes={"method": ["sat"], "seed": [0]})
    _, err = told("study", "tiny.toml", "--slurm", option, cwd=tmp_path, code=2)
    assert sentence in err
