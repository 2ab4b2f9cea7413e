"""Machines that fail: killed at any operation on a file, out of disk, read-only, out of memory, two at once."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

import robustdistill as rd
from games import Tiny, teacher
from robustdistill.cli import main
from robustdistill.events import Finished, Saved
from robustdistill.run import find_checkpoint
from robustdistill.store import rundir
from test_stopping import FAULTS, equal, layer, whole

SHORT = layer(method="mmard", save_minutes=0, epochs=1, limit_batches=2, average="ema", select={"n": 20})
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["robustdistill.run", "test_faults"])
SELDOM = 3  # of the operations on files, so many are tried where FAULTS asks for no more than a sample


# ---- killed at an operation on a file -------------------------------------------------------------------------
class Killer:
    """Counts operations on files under `root`; at number `n` (from 0) it kills its process. Audit hooks tell of them.

    A file that is opened for writing is left torn, with half a line in it.
    """

    CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate")

    def __init__(self, root: Path, n: int | None) -> None:
        self.root, self.n, self.done = str(root), n, 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in self.CHANGES or not isinstance(args[0], str | os.PathLike):
            return
        path, writes = os.fspath(args[0]), event != "open" or bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        if not path.startswith(self.root) or not writes:
            return
        self.done += 1
        if self.n is not None and self.done > self.n:
            self.n = None
            if event == "open" and args[1] is not None:  # by Python's `open`, not to synchronise
                with open(path, "ab") as file:
                    file.write(b'{"torn": ')
            os.kill(os.getpid(), signal.SIGKILL)


def drive(out: Path, n: int | None, told: Any) -> None:
    """Trains in `out` or goes on there; killed at operation `n`, or else tells how many there were."""
    torch.set_num_threads(1)
    killer = Killer(out, n)
    sys.addaudithook(killer)
    going = (out / "spec.toml").exists()
    run = rd.resume(out, teacher=teacher()) if going else rd.train(SHORT, teacher=teacher(), out=out)
    assert isinstance(list(run)[-1], Finished)
    told.send(killer.done)


def driven(out: Path, n: int | None = None) -> tuple[int | None, int]:
    """Exit code and, of a process that was not killed, its operations."""
    hears, tells = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=drive, args=(out, n, tells))
    child.start()
    tells.close()
    child.join()
    with suppress(EOFError):
        return child.exitcode, hears.recv()
    return child.exitcode, 0


@pytest.mark.slow
def test_a_run_killed_at_any_operation_on_a_file_ends_as_one_that_was_not(tmp_path: Path) -> None:
    code, operations = driven(tmp_path / "whole")
    assert code == 0
    assert operations > 60
    rng = random.Random(0)
    tried = range(operations) if FAULTS > SELDOM else sorted(rng.sample(range(operations), SELDOM))
    for n in tried:
        out = tmp_path / f"killed-{n}"
        assert driven(out, n) == (-signal.SIGKILL, 0)
        assert driven(out)[0] == 0, f"killed at operation {n}, it did not go on"
        equal(tmp_path / "whole", out)
        assert not list(out.rglob(".*")), f"killed at operation {n}, it left debris"
        assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}
        shutil.rmtree(out)
    print(f"killed at {len(tried)} of {operations} operations on files")


@pytest.mark.slow
def test_the_killer_kills(tmp_path: Path) -> None:
    assert driven(tmp_path / "run", 0) == (-signal.SIGKILL, 0)
    assert not (tmp_path / "run").exists()


# ---- disks ----------------------------------------------------------------------------------------------------
def namespace(script: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a shell script with mounts of its own; skips where that is not allowed."""
    line = ["unshare", "--user", "--map-root-user", "--mount"]
    tried = ["mount", "-t", "tmpfs", "none", "/mnt"]
    if not shutil.which("unshare") or subprocess.run([*line, *tried], capture_output=True).returncode:
        pytest.skip("this machine lets no process mount a small file system of its own")
    command = [*line, "sh", "-c", script, "sh", *map(str, args)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # as in this process, else sums come out otherwise
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)


RD = f"{sys.executable} -m robustdistill"
SMALL = layer(method="nature", save_minutes=0, limit_batches=8)


def disk_beside_a_spec(folder: Path) -> Path:
    """Where a script mounts its file system; the spec of a small run lies beside it."""
    (folder / "spec.toml").write_text(tomli_w.dumps(SMALL))
    (folder / "disk").mkdir()
    return folder / "disk"


def code_of(done: subprocess.CompletedProcess[str], step: str) -> int:
    """What a step of a script ended with: it said `STEP CODE`."""
    return next(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith(step + " "))


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_what_was_saved_and_the_run_goes_on(tmp_path: Path) -> None:
    disk = disk_beside_a_spec(tmp_path)
    script = f"""
        mount -t tmpfs -o size=400k none $1; cd $1/..
        dd if=/dev/zero of=$1/filler bs=1k count=330 2>/dev/null
        {RD} train -c spec.toml --out $1/run; echo full $?
        ls -A $1/run/checkpoints | sed 's/^/left /'
        rm $1/filler
        {RD} train --resume $1/run; echo resumed $?
        cp -r $1/run run
    """
    done = namespace(script, disk)
    assert code_of(done, "full") == 6, done.stderr
    assert "error: the disk is full" in done.stderr
    assert "go on with `train --resume RUN`" in done.stderr
    left = [line.removeprefix("left ") for line in done.stdout.splitlines() if line.startswith("left ")]
    assert "latest" in left
    assert not [name for name in left if name.startswith(".")]
    assert code_of(done, "resumed") == 0, done.stderr
    equal(whole(tmp_path / "whole", SMALL), tmp_path / "run")


@pytest.mark.slow
def test_where_nothing_can_be_written_each_command_says_so_or_works(tmp_path: Path) -> None:
    disk = disk_beside_a_spec(tmp_path)
    script = f"""
        export XDG_CACHE_HOME=$1/cache
        mount -t tmpfs none $1; cd $1/..
        {RD} train -c spec.toml --out $1/run; echo trained $?
        mount -o remount,ro $1
        {RD} train -c spec.toml --out $1/other; echo elsewhere $?
        {RD} train --resume $1/run; echo resumed $?
        {RD} eval $1/run --attacks fgsm --n 20 --checks 0; echo judged $?
        {RD} report $1/run; echo reported $?
        {RD} report $1/run --out page.html; echo apart $?
        {RD} compare $1/run; echo compared $?
    """
    done = namespace(script, disk)
    assert code_of(done, "trained") == 0, done.stderr
    assert code_of(done, "elsewhere") == 2
    assert "disk/other: Read-only file system; choose another --out" in done.stderr
    assert code_of(done, "resumed") == 6
    assert "the file system is read-only: " in done.stderr
    assert code_of(done, "judged") == 0, done.stderr
    assert "cannot be written (Read-only file system): the verdicts are only shown; --out FILE keeps" in done.stderr
    assert code_of(done, "reported") == 2
    assert "write it elsewhere with --out FILE" in done.stderr
    assert (code_of(done, "apart"), code_of(done, "compared")) == (0, 0), done.stderr
    assert "Traceback" not in done.stderr


# ---- memory ---------------------------------------------------------------------------------------------------
class Greedy(Tiny):
    """Runs out of memory at its nth forward in training."""

    left = 5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and not x.is_meta:
            Greedy.left -= 1
            if Greedy.left < 0:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(x)


def greedy(num_classes: int, in_channels: int) -> Greedy:
    return Greedy()


def test_training_out_of_memory_says_what_to_change_and_goes_on_where_there_is_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, flags = tmp_path / "run", ["--set", "limit_batches=4", "--epochs", "2", "--batch-size", "16"]
    line = ["train", "--method", "nature", "--device", "cpu", "--student", "test_faults:greedy", "--set", "select.n=20"]
    monkeypatch.setattr(Greedy, "left", 5)
    with pytest.raises(SystemExit) as end:
        main([*line, *flags, "--out", str(out)])
    assert end.value.code == 5
    said = capsys.readouterr().err
    assert "error: out of memory: use a smaller --batch-size" in said
    assert "what was saved before is kept" in said
    assert not (out / "lock").exists()
    found = find_checkpoint(out).checkpoint
    assert found is not None
    assert found.meta["epoch"] == 1
    monkeypatch.setattr(Greedy, "left", 1000)
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", str(out)])
    assert end.value.code == 0
    with pytest.raises(SystemExit):
        main([*line, *flags, "--out", str(tmp_path / "whole")])
    equal(tmp_path / "whole", out)


# ---- two at once ----------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = layer(method="nature", save_minutes=0)
    first: Iterator[object] = rd.train(spec, out=tmp_path / "run")
    next(e for e in first if isinstance(e, Saved))
    line = [*RD.split(), "train", "--resume", str(tmp_path / "run")]
    second = subprocess.run(line, capture_output=True, text=True)
    assert second.returncode == 2
    assert f"is in use by process {os.getpid()} on " in second.stderr
    assert isinstance(list(first)[-1], Finished)
    equal(whole(tmp_path / "whole", spec), tmp_path / "run")


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _, operations = driven(tmp_path / "whole")
    assert driven(out, operations // 2)[0] == -signal.SIGKILL
    assert (out / rundir.LOCK).exists()
    assert driven(out)[0] == 0
    assert not (out / rundir.LOCK).exists()
