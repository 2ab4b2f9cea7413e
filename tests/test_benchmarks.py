"""The measuring scripts of benchmarks/ on the smallest run that they can measure."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from robustdistill.logits import Networks
from robustdistill.registry import default_registry
from scripts import BENCHMARKS, script


def ended(folder: Path, clean: float, robust: float, ratio: float | None) -> None:
    folder.mkdir(parents=True)
    verdicts = [{"attack": "clean", "accuracy": clean}, {"attack": "pgd-trades", "accuracy": robust}]
    (folder / "evaluation.json").write_text(json.dumps({"verdicts": verdicts}))
    gradients = {} if ratio is None else {"kl": 1.0, "trd": ratio}
    events = [{"event": "trained"}, {"event": "evaluated", "gradients": {"trd": 9}}, {"gradients": gradients}]
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, events[1 if ratio else 2 :])) + "\n")


def test_the_ablation_compares_equal_seeds(tmp_path: Path) -> None:
    ablation = script("ablation")
    name, zero = "batchmean, prob mean", "batchmean, alpha 1e-12"
    for seed, (with_trd, without) in enumerate([(0.52, 0.50), (0.66, 0.60)]):
        ended(ablation.place(tmp_path, name, seed), 0.9, with_trd, 0.02)
        ended(ablation.place(tmp_path, zero, seed), 0.9, without, None)
    first, second = ablation.table(tmp_path, [zero, name], [0, 1]).rows
    assert first == (zero, "90.00 ± 0.00", "55.00 ± 7.07", "-", "-", "-", "-")
    assert second == (name, "90.00 ± 0.00", "59.00 ± 9.90", zero, "+4.00 ± 2.00", "+0.00 ± 0.00", "0.02")


def test_every_reading_of_the_ablation_is_a_spec_and_has_its_own_folder(tmp_path: Path) -> None:
    from robustdistill.resolve import resolve
    from robustdistill.spec import set_layer

    ablation = script("ablation")
    cells: dict[str, Any] = ablation.CELLS
    specs = [resolve([{"method": "mmard"}, set_layer(list(c.settings))], default_registry()) for c in cells.values()]
    assert len({spec.hash() for spec in specs}) == len(cells) == 17
    assert len({ablation.place(tmp_path, name, 0) for name in cells}) == len(cells)
    assert {cell.against for cell in cells.values()} <= set(cells)


@pytest.mark.slow
def test_the_ablation_trains_judges_and_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "ablation.py"), str(tmp_path / "out"), "--seeds", "0"]
    small = ["--epochs", "1", "--set", "limit_batches=1", "--set", "attack.steps=1", "--set", "select.n=8"]
    result, shown = tmp_path / "out" / "BN-train" / "s0" / "result.json", []
    for _ in range(2):
        done = subprocess.run(
            [*command, "--cells", "BN train", *small], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        shown.append((done.stdout, result.stat().st_mtime_ns))
    assert shown[0][0].count("BN train") == 2
    assert shown[0] == shown[1]  # the second time nothing was left to do


def test_each_inner_objective_reaches_most_of_what_it_ascends() -> None:
    inner = script("inner")
    torch.manual_seed(0)
    student, teacher = (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)) for _ in range(2))
    x, y = torch.rand(32, 1, 8, 8), torch.randint(4, (32,))
    networks = Networks(student=student, teachers={"robust": teacher})
    found = {name: inner.reached(networks, x, y, name, 0.1, default_registry()) for name in inner.INNERS}
    values = {name: float(at.eq3.mean()) for name, at in found.items()}
    right = {name: float(at.student.float().mean()) for name, at in found.items()}
    assert max(values, key=values.__getitem__) == "KL(S(x'), T(x')): MMARD"
    assert min(right, key=right.__getitem__) == "CE(S(x'), y): SAT, ARD, IAD, MTARD"
    assert torch.equal(found["x itself"].student, student(x).argmax(1) == y)


@pytest.mark.parametrize("eps", ["0.2", "0"])
def test_the_table_of_inner_objectives(
    eps: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["inner.py", "digits-clean", "--teacher", "digits-robust", "--n", "20", "--eps", eps]
    monkeypatch.setattr(sys, "argv", words)
    script("inner").main()
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in capsys.readouterr().out.splitlines()[4:]]
    assert len(rows) == 6
    assert (len({tuple(row) for row in rows}) == 1) is (eps == "0")  # at radius 0 every x' is x


@pytest.mark.slow
def test_the_cost_of_looking_is_a_ratio_of_one_run() -> None:
    command = [sys.executable, str(BENCHMARKS / "look.py"), "--method", "nature", "--batches", "2", "--rounds", "1"]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "digits-net on cpu, 2 steps of 128" in done.stdout
    assert float(done.stdout.split("ratio ")[1].split()[0]) > 0


@pytest.mark.slow
def test_every_part_of_the_first_ten_minutes_on_a_gpu_runs(tmp_path: Path) -> None:
    """Here on a CPU, with the embedded digits."""
    small = {
        "DEVICE": "cpu",
        "DATA": "--data digits",
        "TEACHER": "digits-robust",
        "STUDENT": "digits-net",
        "ATTACK": "-n 20 --steps 2 --queries 3",
        "TRAIN": "--set limit_batches=1 --set select.n=8",
        "BENCH": "--rows eager --batch-size 8 --set select.n=8 --set attack.steps=1",
        "LIMIT": "300",
        "RD": f"{sys.executable} -m robustdistill",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHON": sys.executable,
    }
    command = ["sh", str(BENCHMARKS / "short.sh"), "", "", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | small, capture_output=True, text=True, timeout=900, check=False)
    parts = [line.split()[1:4] for line in done.stdout.splitlines() if line.startswith("== ")]
    assert done.returncode == 0, done.stderr
    assert parts == [[f"{name}:", "exit", "0,"] for name in PARTS], done.stdout
    assert "\nsquare " in done.stdout
    assert (tmp_path / "run" / "result.json").exists()


PARTS = ["doctor", "attack", "attack-tests", "tests", "speed-mmard", "speed-rslad", "train"]
