"""Leases: one holder at a time, whoever dies, whenever, on whatever machine."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from robustdistill.store import lease
from robustdistill.store.lease import Holder, Lease, Watcher, machine
from robustdistill.store.process import birth

HERE = {"machine": machine(), "pid": os.getpid(), "born": birth(os.getpid()), "since": "2026-01-01"}


class Clock:
    """A clock that a test sets forward."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def never() -> None:
    raise AssertionError("the lease is not lost")


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(HERE | changes))
    return path


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lease_is_there_while_it_is_held_and_says_by_whom(tmp_path: Path) -> None:
    held = Watcher().take(tmp_path / "a.lease", never)
    assert held is not None
    with held:
        assert Watcher().take(tmp_path / "a.lease", never) is None
        assert Watcher().held(tmp_path / "a.lease")
        holder = Holder.of((tmp_path / "a.lease").read_text())
        assert holder is not None
        assert (holder.pid, holder.machine, holder.gone) == (os.getpid(), machine(), False)
    assert not list(tmp_path.iterdir())
    assert not Watcher().held(tmp_path / "a.lease")


def test_the_lease_of_a_process_that_is_gone_from_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    path = written(tmp_path / "a.lease", pid=dead_pid(), born="")
    assert not Watcher().held(path)
    taken = Watcher().take(path, never)
    assert taken is not None
    assert taken.before is not None
    assert taken.before.since == "2026-01-01"
    assert [p.name for p in tmp_path.iterdir()] == ["a.lease"]


def test_a_process_number_that_was_given_out_again_is_another_process(tmp_path: Path) -> None:
    path = written(tmp_path / "a.lease", born="1")
    if not birth(os.getpid()):
        pytest.skip("this system does not say when a process began")
    assert Watcher().take(path, never) is not None


@pytest.mark.parametrize(
    "text",
    [json.dumps(HERE | {"machine": "elsewhere"}), "", "{", "[]", '{"pid": -3}', json.dumps(HERE | {"pid": "7"})],
    ids=["another machine's", "empty", "half", "a list", "a number", "a word"],
)
def test_any_other_lease_must_stand_untouched_for_a_while_by_the_watchers_own_clock(tmp_path: Path, text: str) -> None:
    path, clock = tmp_path / "a.lease", Clock()
    path.write_text(text)
    watcher = Watcher(expiry=60, clock=clock)
    assert watcher.take(path, never) is None
    clock.now = 59
    assert watcher.held(path)
    clock.now = 61
    assert not watcher.held(path)
    assert watcher.take(path, never) is not None


def test_a_touch_begins_the_wait_anew_whatever_time_it_says(tmp_path: Path) -> None:
    path, clock = written(tmp_path / "a.lease", machine="elsewhere"), Clock()
    watcher = Watcher(expiry=60, clock=clock)
    assert watcher.held(path)
    for now, stamp in ((50, 5), (100, 3), (150, 4_000_000_000)):  # clocks of other machines may stand anywhere
        os.utime(path, (stamp, stamp))
        clock.now = now
        assert watcher.held(path)
    clock.now = 211
    assert not watcher.held(path)


def test_its_holder_touches_it(tmp_path: Path) -> None:
    path = tmp_path / "a.lease"
    held = Watcher(beat=0.01).take(path, never)
    assert held is not None
    os.utime(path, (1, 1))
    with held:
        touched = threading.Event()
        for _ in range(500):
            if path.stat().st_mtime > 2:
                touched.set()
                break
            threading.Event().wait(0.01)
        assert touched.is_set()


def test_a_holder_that_was_taken_for_dead_is_told(tmp_path: Path) -> None:
    path, lost = tmp_path / "a.lease", threading.Event()
    held = Watcher(beat=0.01).take(path, lost.set)
    assert held is not None
    with held:
        written(path, pid=1)
        assert lost.wait(5)
    assert Holder.of(path.read_text()) is not None  # what is another's is left alone


def test_a_lease_that_vanished_is_lost_too(tmp_path: Path) -> None:
    path, lost = tmp_path / "a.lease", threading.Event()
    held = Watcher(beat=0.01).take(path, lost.set)
    assert held is not None
    with held:
        path.unlink()
        assert lost.wait(5)


@pytest.mark.parametrize("dead", [False, True], ids=["new", "of a dead process"])
def test_of_many_that_try_at_once_one_gets_it(tmp_path: Path, dead: bool) -> None:
    pid = dead_pid()
    for turn in range(40):
        path = tmp_path / f"{turn}.lease"
        if dead:
            written(path, pid=pid, born="")
        start, taken = threading.Barrier(8), list[Lease]()

        def take(path: Path = path, start: threading.Barrier = start, taken: list[Lease] = taken) -> None:
            start.wait()
            if (mine := Watcher().take(path, never)) is not None:
                taken.append(mine)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        still = [mine for mine in taken if path.exists() and path.read_text() == mine.text]
        assert len(still) == 1, "one holds it; others that thought so for a moment find that they lost it"
        if not dead:
            assert len(taken) == 1
    assert not list(tmp_path.glob(".*"))


def test_processes_take_turns_and_none_works_beside_another(tmp_path: Path) -> None:
    """Four processes take the same lease as often as they can; each notes when it begins and when it ends."""
    code = """
import sys, pathlib
from robustdistill.store.lease import Watcher
path, log = pathlib.Path(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
done, watcher = 0, Watcher()
while done < 25:
    held = watcher.take(path, lambda: None)
    if held is not None:
        with held:
            log.write("begin\\n"); log.write("end\\n")
        done += 1
"""
    log = tmp_path / "log"
    command = [sys.executable, "-c", code, str(tmp_path / "a.lease"), str(log)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert log.read_text().split() == ["begin", "end"] * 100


def test_a_file_that_another_one_put_in_the_place_of_a_dead_lease_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.lease", pid=dead_pid(), born="")
    rename = os.rename

    def slow(source: Path, target: Path) -> None:
        written(path, machine="the faster one")
        rename(source, target)

    monkeypatch.setattr(lease.os, "rename", slow)
    assert Watcher().take(path, never) is None
    assert json.loads(path.read_text())["machine"] == "the faster one"
    assert [p.name for p in tmp_path.iterdir()] == ["a.lease"]
