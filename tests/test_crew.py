"""Workers as processes: started, replaced when they die, ended with their command. Stand-ins take the leases here."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from robustdistill.errors import RobustDistillError
from robustdistill.study.crew import DEATHS, Crew, Place, places
from robustdistill.study.folder import Folder
from studies import folder, found

# Takes the lease of argv[2] in the folder argv[1]; what it then does is argv[3].
STAND_IN = """
import os, pathlib, signal, sys, time
from robustdistill.store.lease import Watcher
here, name, then = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
lease = Watcher(beat=0.05).take(here / f"{name}.lease", lambda: None)
if lease is None or (here / "done").exists():
    sys.exit(0)
with lease:
    with open(here / "begun", "a") as log:
        print(os.getpid(), file=log)
    if then == "dies once" and len((here / "begun").read_text().split()) > 1:
        then = "ends"
    if then.startswith("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "waits":
        time.sleep(60)
    (here / "done").touch()
"""


def crew(one: Folder, then: str, **changes: Any) -> Crew:
    (item,) = found(one)
    command = [sys.executable, "-c", STAND_IN, str(one.path), item.id, then]

    def left() -> list[Any]:
        return [item] if not (one.path / "done").exists() and one.left([item], "2026") else []

    return Crew(one, [item], command, left, **changes)


@pytest.fixture
def one(tmp_path: Path) -> Folder:
    return folder(tmp_path, axes={"method": ["sat"]})


def begun(one: Folder) -> list[str]:
    path = one.path / "begun"
    return path.read_text().split() if path.exists() else []


def test_a_crew_ends_when_nothing_is_left(one: Folder) -> None:
    looks: list[int] = []
    assert crew(one, "ends", look=lambda: looks.append(1)).run([Place({}), Place({})])
    assert len(begun(one)) == 1
    assert looks
    assert crew(one, "ends").run([Place({})]), "and does not begin when nothing is"
    assert len(begun(one)) == 1


def test_a_worker_that_was_killed_is_replaced_and_the_run_is_no_failure(one: Folder) -> None:
    assert crew(one, "dies once").run([Place({})])
    assert len(begun(one)) == 2
    assert one.failure(found(one)[0]) is None


def test_a_run_that_kills_its_workers_again_and_again_has_failed(one: Folder) -> None:
    assert crew(one, "dies").run([Place({})])
    assert len(begun(one)) == DEATHS
    failure = one.failure(found(one)[0])
    assert failure is not None
    assert "its worker died 3 times in a row, the last time by signal 9 (SIGKILL)" in failure.sentence
    assert not failure.lasting


def test_workers_that_cannot_begin_are_not_started_for_ever(one: Folder) -> None:
    (item,) = found(one)
    broken = Crew(one, [item], [sys.executable, "-c", "import sys; print('no'); sys.exit(4)"], lambda: [item])
    with pytest.raises(
        RobustDistillError, match=r"end as soon as they begin, the last one with exit code 4; .*workers"
    ):
        broken.run([Place({})])
    assert (one.logs / "workers.log").read_text() == "no\n" * DEATHS


def test_asked_to_stop_a_crew_asks_its_workers_and_waits_for_them(one: Folder) -> None:
    assert not crew(one, "waits", stop=lambda: bool(begun(one))).run([Place({})])
    (pid,) = begun(one)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_no_worker_outlives_its_crew(one: Folder) -> None:
    def look() -> None:
        if begun(one):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crew(one, "waits", look=look).run([Place({})])
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun(one)[0]), 0)


def test_each_place_has_a_gpu_in_turn_and_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("robustdistill.study.crew.cores", lambda: 8)
    shown = [place.environment for place in places(3, ["0", "5"])]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in shown] == ["0", "5", "0"]
    assert {e["OMP_NUM_THREADS"] for e in shown} == {"2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert places(1, [])[0].environment == {}
