"""The run directory: what lies where, who may write, and what a crash leaves behind."""

import errno
import json
import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import torch

from robustdistill.errors import DamagedFile, UserError
from robustdistill.events import Stepped, Warned
from robustdistill.store import atomic, environment, lock, process, rundir
from robustdistill.store.plain import dumps
from robustdistill.store.rundir import RunDir

SPEC = 'method = "mmard"\n'
SOURCE = str(Path(rundir.__file__).parents[2])
HOLD = """
import sys, pathlib
from robustdistill.store.rundir import RunDir
with RunDir(pathlib.Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Evaluated:
    epoch: int
    loss: float
    terms: dict[str, float] = field(default_factory=dict)
    where: Path = Path("a/b")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return rundir.create(tmp_path / "runs" / "first", SPEC, {"python": "3.11"})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def hold(run: RunDir) -> "subprocess.Popen[str]":
    """A second process that holds the run's lock until it is killed or its input ends."""
    command = [sys.executable, "-c", HOLD, str(run.path)]
    env = os.environ | {"PYTHONPATH": SOURCE}
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    return other


def end(other: "subprocess.Popen[str]", signal_number: int | None = None) -> None:
    if signal_number is not None:
        other.send_signal(signal_number)
    other.communicate(timeout=20)


# --- atomic files


@pytest.mark.parametrize("content", ["grüße\n", b"\x00\xff"])
def test_write_atomic_replaces_the_whole_file(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "file"
    path.write_text("a much longer text than the one that replaces it")
    atomic.write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("before", [None, "old"])
def test_failed_write_leaves_the_old_file_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, before: str | None
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if before:
        (tmp_path / "file").write_text(before)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_atomic(tmp_path / "file", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == ({"file": before} if before else {})


def test_file_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        calls.append("fsync")
        real_fsync(handle)

    def replace(source: Path, target: Path) -> None:
        calls.append("replace")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    atomic.write_atomic(tmp_path / "file", "text")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("links", [True, False])
def test_write_new_writes_over_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    atomic.write_new(tmp_path / "new", b"whole")
    assert (tmp_path / "new").read_bytes() == b"whole"
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("new", "dangling"):
        with pytest.raises(FileExistsError):
            atomic.write_new(tmp_path / name, b"other")
    assert (tmp_path / "new").read_bytes() == b"whole"
    assert names(tmp_path) == {"new", "dangling"}


def test_leftovers_are_what_dead_writers_left(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = {f".tmp-a-{int(dead.stdout)}", f".old-b-{os.getpid()}"}
    for name in (*left, f".tmp-c-{os.getppid()}", ".tmp-d", ".hidden"):
        (tmp_path / name).touch()
    assert {path.name for path in atomic.leftovers(tmp_path)} == left


def test_sha256_known_answer(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert atomic.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_is_sorted_and_holds_no_nan() -> None:
    text = dumps({"b": [math.nan, -math.inf, 1.5], "a": {"x": Evaluated(1, 2.0)}})
    expected = {"a": {"x": {"epoch": 1, "loss": 2.0, "terms": {}, "where": "a/b"}}, "b": [None, None, 1.5]}
    assert text == json.dumps(expected, indent=2) + "\n"


# --- layout and refusals


def test_layout(run: RunDir) -> None:
    run.append_event(Warned("a"))
    run.write_result({"clean": 0.5, "robust": math.nan})
    assert names(run.path) == {"spec.toml", "environment.json", "checkpoints", "events.jsonl", "result.json"}
    assert run.checkpoints == run.path / "checkpoints"
    assert run.name == "first"
    assert run.read_spec() == SPEC
    assert run.read_environment() == {"python": "3.11"}
    assert rundir.open_run(run.path).read_result() == {"clean": 0.5, "robust": None}


def test_create_takes_an_empty_directory(tmp_path: Path) -> None:
    assert rundir.create(tmp_path, SPEC, {}).read_spec() == SPEC


def test_create_refuses_an_existing_run(run: RunDir) -> None:
    with pytest.raises(UserError, match=r"first already holds a run\. Go on with it by --resume, or .* --out"):
        rundir.create(run.path, "other", {})
    assert run.read_spec() == SPEC


def test_create_refuses_a_foreign_directory(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="holds files that are no run; choose another --out"):
        rundir.create(tmp_path, SPEC, {})
    assert names(tmp_path) == {"thesis.tex"}


def test_create_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file, not a directory"):
        rundir.create(tmp_path / "file", SPEC, {})


def test_of_two_that_create_the_same_run_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, looks = rundir.refuse_occupied, count()
    monkeypatch.setattr(rundir, "refuse_occupied", lambda path: next(looks) and real(path))  # it saw nothing at first
    path = tmp_path / "run"
    path.mkdir()
    with RunDir(path).locked(), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        rundir.create(path, "other", {})
    rundir.create(path, SPEC, {})
    looks = count()
    with pytest.raises(UserError, match="already holds a run"):
        rundir.create(path, "other", {})
    assert RunDir(path).read_spec() == SPEC
    assert names(path) == {"spec.toml", "environment.json", "checkpoints"}


def test_create_takes_what_a_process_left_that_died_too_early(tmp_path: Path) -> None:
    other = hold(RunDir(tmp_path))
    end(other, signal.SIGKILL)
    (tmp_path / "checkpoints").mkdir()
    for name in ("environment.json", f".tmp-spec.toml-{other.pid}"):
        (tmp_path / name).write_text("{")
    rundir.create(tmp_path, SPEC, {"python": "3.11"})
    assert RunDir(tmp_path).read_environment() == {"python": "3.11"}
    with RunDir(tmp_path).locked():
        assert names(tmp_path) == {"spec.toml", "environment.json", "checkpoints", "lock"}


@pytest.mark.parametrize("call", ["mkdir", "write_atomic"])
def test_create_says_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(*((Path, call) if call == "mkdir" else (rundir, call)), fail)
    with pytest.raises(
        UserError, match=r"nothing can be written to .*run: Read-only file system; choose another --out"
    ):
        rundir.create(tmp_path / "run", SPEC, {})
    monkeypatch.undo()
    assert names(tmp_path) == set()


def test_open_run_refuses_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run directory: it has no spec\.toml"):
        rundir.open_run(tmp_path)
    with pytest.raises(UserError, match="nowhere is not a run directory: it does not exist"):
        rundir.open_run(tmp_path / "nowhere")


def test_unused_counts_up(tmp_path: Path) -> None:
    wanted = tmp_path / "digits-mmard"
    for expected in ("digits-mmard", "digits-mmard-2", "digits-mmard-3"):
        free = rundir.unused(wanted)
        assert free == tmp_path / expected
        rundir.create(free, SPEC, {})


def test_newest_by_start_or_result(tmp_path: Path) -> None:
    (tmp_path / "no-run").mkdir()
    a, b = (rundir.create(tmp_path / name, SPEC, {}) for name in "ab")
    os.utime(a.path / "spec.toml", (100, 100))
    os.utime(b.path / "spec.toml", (200, 200))
    assert rundir.newest(tmp_path) == b
    a.write_result({})
    assert rundir.newest(tmp_path) == a


@pytest.mark.parametrize("folder", [".", "missing"])
def test_newest_without_runs(tmp_path: Path, folder: str) -> None:
    with pytest.raises(UserError, match=r"There is no run in .* Train one first"):
        rundir.newest(tmp_path / folder)


def test_result_missing_or_broken(run: RunDir) -> None:
    with pytest.raises(UserError, match=r"has no result yet.*--resume"):
        run.read_result()
    (run.path / "result.json").write_text('{"clean": ')
    with pytest.raises(DamagedFile, match=r"result\.json is missing or not a JSON object"):
        run.read_result()


# --- events


def test_event_log_round_trip(run: RunDir) -> None:
    assert run.read_events() == []
    run.append_event(Evaluated(3, math.nan, {"ce": 0.25, "kl": math.inf}))
    run.append_event(Stepped(epoch=1, step=2, steps=3, loss=0.5, lr=0.1, images_per_second=1e3))
    first, second = run.read_events()
    assert list(first) == ["event", "time", "epoch", "loss", "terms", "where"]
    assert first["time"].endswith("+00:00")
    del first["time"], second["time"]
    values = {"epoch": 3, "loss": None, "terms": {"ce": 0.25, "kl": None}, "where": "a/b"}
    assert first == {"event": "evaluated", **values}
    assert second == {"event": "stepped", **vars(Stepped(1, 2, 3, 0.5, 0.1, 1e3))}
    assert len((run.path / "events.jsonl").read_text().splitlines()) == 2


def test_truncate_forgets_what_came_later(run: RunDir) -> None:
    assert run.events_offset() == 0
    run.append_event(Warned("kept"))
    offset = run.events_offset()
    run.append_event(Warned("forgotten"))
    run.truncate_events(offset)
    run.append_event(Warned("instead"))
    assert [event["message"] for event in run.read_events()] == ["kept", "instead"]


def test_truncate_never_lengthens(run: RunDir) -> None:
    run.truncate_events(10)
    assert not (run.path / "events.jsonl").exists()
    run.append_event(Warned("only"))
    before = (run.path / "events.jsonl").read_bytes()
    run.truncate_events(len(before) + 100)
    assert (run.path / "events.jsonl").read_bytes() == before


@pytest.mark.parametrize("whole", [0, 1, 2])
def test_half_written_last_line(run: RunDir, whole: int) -> None:
    for number in range(whole):
        run.append_event(Warned(str(number)))
    offset = run.events_offset()
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "warn')
    expected = [str(number) for number in range(whole)]
    assert [event["message"] for event in run.read_events()] == expected
    assert run.events_offset() == offset
    run.append_event(Warned("after"))
    assert [event["message"] for event in run.read_events()] == [*expected, "after"]


@pytest.mark.parametrize("line", [b"{broken", b"[1, 2]", b"\xff\xfe", b""])
def test_broken_line_is_named(run: RunDir, line: bytes) -> None:
    run.append_event(Warned("first"))
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(DamagedFile, match=r"Line 2 of .*events\.jsonl"):
        run.read_events()


# --- lock


def test_lock_is_there_while_held_and_gone_after(run: RunDir) -> None:
    with run.locked():
        holder = json.loads((run.path / "lock").read_text())
        assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname())
    assert "lock" not in names(run.path)
    with pytest.raises(KeyboardInterrupt), run.locked():
        raise KeyboardInterrupt
    assert "lock" not in names(run.path)
    with run.locked():
        pass


def test_second_process_is_refused(run: RunDir) -> None:
    other = hold(run)
    try:
        sentence = rf"first is in use by process {other.pid} on {socket.gethostname()} since .*--out"
        with pytest.raises(UserError, match=sentence), run.locked():
            pytest.fail("two processes hold the lock")
    finally:
        end(other)
    with run.locked():
        pass


def test_same_process_twice_is_refused(run: RunDir) -> None:
    inner = run.locked()
    with run.locked(), pytest.raises(UserError, match=f"in use by process {os.getpid()} "), inner:
        pytest.fail("held twice")
    assert "lock" not in names(run.path)


def test_killed_process_is_taken_over(run: RunDir) -> None:
    other = hold(run)
    end(other, signal.SIGKILL)
    assert "lock" in names(run.path)
    with run.locked():
        assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()
    assert names(run.path) == {"spec.toml", "environment.json", "checkpoints"}


@pytest.mark.skipif(not process.birth(os.getpid()), reason="no /proc: a process cannot be told from a later one")
def test_zombies_and_reused_numbers_are_dead(run: RunDir) -> None:
    other = hold(run)
    assert process.alive(other.pid)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, its number still taken
    assert not process.alive(other.pid)
    end(other)
    write_lock(run, pid=os.getpid(), born="1")  # a restarted container gives out the same numbers
    with run.locked():
        pass


def test_lock_of_another_host_is_refused(run: RunDir) -> None:
    write_lock(run, pid=1, host="elsewhere")
    with pytest.raises(UserError, match=r"in use by process 1 on elsewhere .*delete .*lock and"), run.locked():
        pytest.fail("taken from a living process")
    assert "lock" in names(run.path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "{"])
def test_unreadable_lock_is_refused(run: RunDir, text: str) -> None:
    (run.path / "lock").write_text(text)
    with pytest.raises(UserError, match=r"does not say by whom.*delete .*lock"), run.locked():
        pytest.fail("taken from somebody unknown")


def test_who_uses_a_run(run: RunDir) -> None:
    assert lock.user(run.path / "lock") == ""
    with run.locked():
        assert f"in use by process {os.getpid()}" in lock.user(run.path / "lock")
    write_lock(run, pid=os.getpid(), born="1")
    assert (lock.user(run.path / "lock") == "") == bool(process.birth(os.getpid()))
    write_lock(run, pid=1, host="elsewhere")
    assert "in use by process 1 on elsewhere" in lock.user(run.path / "lock")


def test_takeover_leaves_a_lock_that_another_took_first(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lock(run, pid=os.getpid(), born="1")

    def taken_meanwhile(path: Path, text: str, refuse: object = lock._refuse_living) -> None:
        monkeypatch.setattr(lock, "_refuse_living", refuse)
        write_lock(run, pid=os.getpid(), born=process.birth(os.getpid()))

    monkeypatch.setattr(lock, "_refuse_living", taken_meanwhile)
    with pytest.raises(UserError, match="in use by process"), run.locked():
        pytest.fail("removed a living process's lock")
    assert names(run.path) == {"spec.toml", "environment.json", "checkpoints", "lock"}


def test_release_leaves_a_lock_that_is_no_longer_ours(run: RunDir) -> None:
    with run.locked():
        write_lock(run, pid=1, host="elsewhere")
    assert json.loads((run.path / "lock").read_text())["host"] == "elsewhere"


def write_lock(run: RunDir, pid: int, host: str = "", born: str = "") -> None:
    holder = lock.Holder(pid, host or socket.gethostname(), born, "2026-01-01T00:00:00+00:00")
    (run.path / "lock").write_text(dumps(holder))


# --- environment


def test_environment_is_json_and_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = environment.environment(torch.device("cpu"), plugins=["example 1.0"])
    assert json.loads(dumps(found)) == found
    assert found["torch"] == torch.__version__
    assert found["python"] == sys.version.split()[0]
    assert found["packages"]["safetensors"]
    assert (found["device"], found["threads"], found["plugins"]) == ("cpu", 1, ["example 1.0"])
    assert found["device_name"]


def test_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "work"
    folder.mkdir()
    assert environment.git_state(folder) is None
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    (folder / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    state = environment.git_state(folder)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (folder / "file").write_text("2")
    assert environment.git_state(folder) == state | {"dirty": True}


def test_version_of_what_is_not_installed() -> None:
    assert environment.version("no-such-distribution-here") is None
