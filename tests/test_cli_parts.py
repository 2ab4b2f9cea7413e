"""The pieces of the command line: failures as sentences, a run's picture, what a terminal shows."""

import contextlib
import errno
import io
import json
import logging
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robustdistill import noted
from robustdistill.cli import comparison, failures, flags, folders, main, outcomes, progress, render, threads
from robustdistill.cli.references import References
from robustdistill.errors import DamagedFile, Diverged, PluginError, UserError
from robustdistill.evaluation.verdict import Verdict, worst
from robustdistill.events import Evaluated, Event, Finished, Saved, Started, Stepped, Trained, Warned
from robustdistill.report.tables import Table
from robustdistill.run import as_spec
from robustdistill.store import rundir


# ---- threads ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "torch", "set_to"),
    [
        ({}, False, "1000"),
        ({}, True, None),  # it has been read
        ({"GOMP_SPINCOUNT": "7"}, False, "7"),
        ({"OMP_WAIT_POLICY": "active"}, False, None),
    ],
)
def test_idle_threads_sleep_unless_told_otherwise(
    given: dict[str, str], torch: bool, set_to: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (threads.SPINS, threads.POLICY):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if not torch:
        monkeypatch.delitem(sys.modules, "torch")
    threads.patient()
    assert os.environ.get(threads.SPINS) == set_to


def test_a_command_says_how_threads_wait_before_torch_is_there() -> None:
    script = (
        "import atexit, os, sys; from robustdistill.cli import main; "
        "atexit.register(lambda: print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))); "
        "main(['explain', 'mmard'])"
    )
    env = {k: v for k, v in os.environ.items() if k not in (threads.SPINS, threads.POLICY)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.splitlines()[-1] == "True 1000", done.stderr


# ---- failures -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "error, code, told",
    [
        (UserError("this\nis wrong"), 2, "this is wrong"),
        (Diverged("the loss is nan"), 3, "the loss is nan"),
        (DamagedFile("a.pt is cut"), 4, "a.pt is cut"),
        (PluginError("twice"), 7, "twice"),
        (MemoryError(), 5, "--batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory"), 5, "--batch-size"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 6, "the disk is full: runs/a"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 6, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "Permission denied: /x"),
        (ModuleNotFoundError("No module named 'timm'"), 2, "No module named 'timm': install what is missing; `robust"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_become_a_sentence_and_a_code(error: BaseException, code: int, told: str) -> None:
    found = failures.sentence(error)
    assert found is not None
    assert (told in found[0], found[1]) == (True, code)
    assert "\n" not in found[0]


@pytest.mark.parametrize(
    "error, told", [(TypeError("a\nbug"), "TypeError: a bug"), (AssertionError(), "AssertionError")]
)
def test_a_bug_is_a_sentence_too(error: Exception, told: str) -> None:
    assert failures.sentence(error) is None
    head = f"internal error: {told}; this is a bug of robustdistill: "
    again = "run the command again with --debug to see where, and report it"
    assert failures.bug(error, shown=False) == (head + again, 1)
    assert failures.bug(error, shown=True) == (head + "report it", 1)


def test_python_warnings_become_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        failures.install()
        warnings.warn("take\ncare", UserWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "warning: take care\n")


# ---- flags and folders --------------------------------------------------------------------------------------
def test_a_zero_is_given_and_none_is_not() -> None:
    given = {"seed": 0, "lr": 0.1, "steps": 5, "data_dir": "d", "with_": "", "eps": None, "teacher": []}
    made = {"seed": 0, "optim": {"lr": 0.1}, "attack": {"steps": 5}, "data": {"dir": "d"}, "with": ""}
    assert flags.layer(given) == made


def test_folders_hold_runs_in_the_order_of_their_seeds(tmp_path: Path) -> None:
    for seed in (10, 2, 0):
        rundir.create(tmp_path / f"s{seed}", "", {})
    assert [r.name for r in folders.runs_in(tmp_path)] == ["s0", "s2", "s10"]
    assert [r.name for r in folders.runs_in(tmp_path / "s2")] == ["s2"]
    with pytest.raises(UserError, match=r"s2 exists already"):
        folders.seed_folders(tmp_path, [1, 2])


# ---- runs side by side --------------------------------------------------------------------------------------
def finished_run(path: Path, seed: int, best: float, last: float) -> rundir.RunDir:
    """A run's directory as `train` leaves it, with accuracies made up."""
    store = rundir.create(path, as_spec({"method": "sat", "seed": seed}).to_toml(), {})
    tests = {
        which: {"test": {"n": 360, "clean": v, "pgd-trades": v / 2}} for which, v in (("best", best), ("last", last))
    }
    store.write_result(tests)
    return store


def test_seeds_are_averaged_and_a_repeated_one_is_not(tmp_path: Path) -> None:
    values = {"a": (0, 0.8, 0.4), "b": (1, 0.6, 0.2), "again": (0, 0.8, 0.4)}
    runs = [finished_run(tmp_path / name, *value) for name, value in values.items()]
    noted.keep(runs[2], [], {"data": "digits", "n": 360, "whole": True, "eps": 0.2})
    groups = outcomes.by_spec([outcomes.outcome(run) for run in runs])
    assert [[o.spec.seed for o in group] for group in groups] == [[0, 1], [0]]
    rows = comparison.rows_of(groups, lambda spec: References())
    table = comparison.comparison(rows)
    assert table.columns == ("run", "method", "student", "seeds", "epoch", "clean", "pgd-trades")
    assert [row[3:] for row in table.rows] == [
        ("0,1", "best", "70.00 ± 14.14", "35.00 ± 7.07"),
        ("0,1", "last", "30.00 ± 14.14", "15.00 ± 7.07"),
        ("0", "last", "40.00", "20.00"),  # eval judged its best epoch, under no attack at all
    ]
    assert table.rows[0][0] == f"{tmp_path}/*"
    _, (_, accuracies) = comparison.numbered(rows)
    assert accuracies.rows[1] == ("1", "last", "30.0 ± 14.1", "15.0 ± 7.1")


def test_a_mean_is_of_one_radius_and_one_set_of_images(tmp_path: Path) -> None:
    whole = {"data": "digits", "n": 360, "whole": True, "eps": 0.2}
    others = [whole, whole, whole | {"eps": 0.1}, whole | {"n": 20, "whole": False}]
    runs = [finished_run(tmp_path / f"s{seed}", seed, 0.8, 0.4) for seed in range(4)]
    for run, facts in zip(runs, others, strict=True):
        noted.keep(run, [verdict("clean"), verdict("pgd")], facts)
    groups = outcomes.by_spec([outcomes.outcome(run) for run in runs])
    assert [[o.spec.seed for o in group] for group in groups] == [[0, 1], [2], [3]]
    names = ", ".join(str(run.path) for run in runs)
    (told,) = outcomes.apart(groups)
    assert told.startswith(f"{names} differ in their seeds only, and have no mean")
    assert outcomes.apart(groups[:1]) == []


def test_worst_over_other_attacks_has_no_mean(tmp_path: Path) -> None:
    runs = [finished_run(tmp_path / f"s{seed}", seed, 0.8, 0.4) for seed in range(2)]
    for run, more in zip(runs, (["pgd"], ["pgd", "cw"]), strict=True):
        found = [verdict(name) for name in ("clean", *more)]
        noted.keep(run, [*found, worst(found)], {"data": "digits", "n": 2, "whole": True, "eps": 0.2})
    groups = outcomes.by_spec([outcomes.outcome(run) for run in runs])
    row, _ = comparison.rows_of(groups, lambda spec: References())
    assert list(row.values) == ["clean", "pgd"]
    (told,) = outcomes.apart(groups)
    assert "no mean of worst" in told


def verdict(attack: str) -> Verdict:
    return Verdict(attack, 0.2, torch.tensor([True, False]), torch.tensor([0, 1]), {}, 0.0)


def test_compare_leaves_out_what_is_not_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = rundir.create(tmp_path / "begun", as_spec({"method": "sat", "seed": 1}).to_toml(), {}).path
    told = (
        f"{begun} is left out: it has no result yet; unless it still runs, `robustdistill train --resume {begun}` goes"
    )

    def compared(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["compare", *map(str, args)])
        return (int(ended.value.code or 0), *capsys.readouterr())

    code, _, err = compared(tmp_path)
    assert (code, told in err) == (2, True)
    finished_run(tmp_path / "ended", 0, 0.8, 0.4)
    code, out, err = compared(tmp_path)
    assert (code, err) == (0, "")
    assert "80.0" in out
    assert told in out
    assert f"note: {told}" in compared(tmp_path, "--format", "json")[2]
    code, _, err = compared(tmp_path, begun)
    assert (code, "has no result yet" in err) == (2, True)


# ---- a run's picture ----------------------------------------------------------------------------------------
STARTED = Started("mmard", 3, 4, 0, "cpu", 12186, execution="eager fp32")


def evaluated(epoch: int, robust: float, best: bool) -> Evaluated:
    ratio = {"kl": 1.0, "trd": 0.0123}
    return Evaluated(epoch, "holdout", 0.9, robust, "pgd-trades", 1.5, 0.1, 2.0, {}, ratio, best)


EVENTS: list[Event] = [
    STARTED,
    Warned("careful"),
    Stepped(0, 2, 4, 1.7, 0.1, 1234.5),
    Stepped(0, 4, 4, 1.5, 0.1, 1000.0),
    evaluated(0, 0.5, True),
    Saved(1, "runs/a/checkpoints/epoch-0001"),
    Stepped(1, 4, 4, 1.5, 0.1, 1000.0),
    Trained(1, 1.5, 0.1, 2.0, True, {}, {"kl": 1.0, "trd": 0.0123}),
    evaluated(1, 0.4, False),
    Stepped(2, 4, 4, 1.5, 0.1, 1000.0),
    evaluated(2, 0.45, False),
    Finished({"x": float("nan")}, "runs/a"),
]


def test_the_picture_after_each_event() -> None:
    seen = [(v.phase, v.place, v.steps_done) for _, v in progress.pictures(EVENTS)]
    assert seen == [
        ("training", (1, 0), 0),
        ("training", (1, 0), 0),
        ("training", (1, 2), 2),
        ("judging", (1, 4), 4),
        ("training", (2, 0), 4),
        ("training", (2, 0), 4),
        ("judging", (2, 4), 8),
        ("judging", (2, 4), 8),
        ("training", (3, 0), 8),
        ("judging", (3, 4), 12),
        ("testing", (3, 4), 12),
        ("done", (3, 4), 12),
    ]
    *_, (_, last) = progress.pictures(EVENTS)
    assert last.best is not None
    assert last.last is not None
    assert (last.best.epoch, last.last.epoch) == (0, 2)


def test_a_resumed_run_counts_from_where_it_goes_on() -> None:
    began = time.monotonic() - 10
    view = progress.advance(progress.View(), Started("mmard", 3, 4, 1, "cpu", 1))
    assert (view.steps_done, view.steps, view.place) == (4, 12, (2, 0))
    assert progress.eta(view) is None
    view = progress.View("training", view.started, Stepped(1, 2, 4, 1.0, 0.1, 1.0), began=began)
    assert progress.eta(view) == pytest.approx(10 / 2 * 6, rel=0.01)


def test_plain_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert progress.lines(EVENTS).path == "runs/a"
    out, err = capsys.readouterr()
    heading, warning, first, *rest = err.splitlines()
    assert (out, len(rest)) == ("", 2)
    assert heading == "mmard: 3 epochs of 4 steps; student of 12,186 parameters on cpu, eager fp32"
    assert warning == "warning: careful"
    expected = "epoch 1/3  loss 1.5  lr 0.1  holdout clean 90.00  pgd-trades 50.00 (best)  trd/kl 0.012  1,000 images/s"
    assert first.startswith(expected)


def test_json_lines_hold_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    progress.json_lines(EVENTS)
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [r["event"] for r in records] == [type(e).__name__.lower() for e in EVENTS]
    assert (records[-1]["result"], err) == ({"x": None}, "")


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "30"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_shows_where_a_run_stands() -> None:
    def slowly() -> Iterator[Event]:
        for event in EVENTS:
            time.sleep(0.25 if isinstance(event, Evaluated) else 0)
            yield event

    with contextlib.redirect_stderr(Terminal()) as screen:
        assert render.live(slowly()).path == "runs/a"
    shown = plain(screen.getvalue())
    assert "warning: careful" in shown
    assert " ".join(progress.heading(EVENTS[0]).split()) in " ".join(shown.split())
    assert re.search(r"mmard  judging  epoch 2/3 .*ETA", shown)
    assert re.search(r"step 4/4  loss 1.5  lr 0.1  1,000 images/s  trd/kl 0.012", shown)
    assert re.search(r"last +2 +90\.00 +40\.00\s+best +1 +90\.00 +50\.00", shown)
    assert max(map(len, shown.replace("\r", "\n").splitlines())) <= 80


def test_the_picture_makes_way_for_a_download_and_comes_back() -> None:
    during: list[object] = []

    def downloading() -> Iterator[Event]:
        logging.getLogger("robustdistill").warning("downloading")
        during.append(sys.stderr)
        for event in EVENTS:
            time.sleep(0.25 if isinstance(event, Evaluated) else 0)
            yield event

    with contextlib.redirect_stderr(Terminal()) as screen:
        assert render.live(downloading()).path == "runs/a"
    assert during == [screen]  # and not what rich puts in its place
    assert "mmard  judging" in plain(screen.getvalue())


def test_a_long_address_is_wrapped_and_not_cut() -> None:
    address = "https://example.org/" + "a" * 100 + "/weights.pt"
    with contextlib.redirect_stdout(Terminal()) as screen:
        render.show_pairs([("from", address)])
    assert "".join(plain(screen.getvalue()).split()) == "from" + address


def test_no_color_and_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with contextlib.redirect_stderr(Terminal()) as screen:
        assert render.on_terminal(sys.stderr)
        render.live(EVENTS)
    assert "\x1b[" in screen.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", screen.getvalue())  # 30 to 39: colours
    monkeypatch.setenv("TERM", "dumb")
    assert not render.on_terminal(screen)
    assert not render.on_terminal(io.StringIO())


def test_a_narrow_terminal_wraps_numbers_only_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with contextlib.redirect_stdout(Terminal()) as screen:
        render.show(Table(("run", "clean", "pgd-trades"), (("a-long-name" * 4, "94.40 ± 0.30", "70.10 ± 0.40"),)))
    shown = plain(screen.getvalue())
    assert {"pgd-trades", "94.40", "70.10", "0.40"} <= set(shown.split())
    assert max(map(len, shown.splitlines())) <= 40


def test_the_work_of_a_run_in_words() -> None:
    assert progress.work(4.63e18) == "4,630 PFLOP, some 4:17:13 h at 300 TFLOP/s (about one H100 in bf16)"
    assert progress.work(2e13).startswith("0.02 PFLOP, some 0.1 s at ")
    assert progress.work(2e13, 2857).startswith("0.02 PFLOP, some 47:37 min on one core of a CPU")


def test_a_long_run_tells_its_cost_before_its_first_step() -> None:
    started = Started("mmard", 300, 375, 0, "cuda", 11_173_962, execution="graph bf16", flops=4.63e18)
    assert progress.heading(started).endswith(f"cuda, graph bf16; {progress.work(4.63e18)}")
    assert "PFLOP" not in progress.heading(replace(started, flops=9e14))
