"""The doctor: every check seen in a sound world and in a broken one, and what the command makes of them."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import types
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from installing import install
from robustdistill.cli import main
from robustdistill.cli.doctor import verdict
from robustdistill.data import cifar_batches, download
from robustdistill.doctor import checks, finding, images, machine, places, software
from robustdistill.doctor.finding import FAILS, NOTE, OK, Asked, Finding
from robustdistill.engine import execution
from robustdistill.registry import default_registry
from robustdistill.store import rundir

Patch = pytest.MonkeyPatch
ASKED = Asked()


def only(check: checks.Check, asked: Asked = ASKED) -> Finding:
    """What a check finds, as `examine` tells it."""
    (found,) = checks.examine(asked, [check])
    assert (found.advice == "") == (found.state == OK)
    assert "\n" not in found.found + found.advice
    return found


def told(found: Finding, state: str, *words: str) -> None:
    assert (found.state, [w for w in words if w not in f"{found.found} Do: {found.advice}"]) == (state, []), found


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


# ---- software -----------------------------------------------------------------------------------------------
def test_python(monkeypatch: Patch) -> None:
    told(only(software.python), OK, ".".join(map(str, sys.version_info[:3])))
    monkeypatch.setattr("platform.python_version", lambda: "3.10.9")
    found = only(software.python)
    told(found, FAILS, "3.10.9, and >=3.11 is needed", "newer Python")
    assert found.needed


def test_torch(monkeypatch: Patch) -> None:
    told(only(software.torch), OK, str(torch.__version__), "built for")
    old = types.SimpleNamespace(__version__="2.3.1+cpu", version=types.SimpleNamespace(cuda=None))
    monkeypatch.setattr(software.importlib, "import_module", lambda _: old)
    told(only(software.torch), FAILS, "2.3.1+cpu, and torch>=2.9 is needed", "pip install --upgrade")
    monkeypatch.setattr(software.importlib, "import_module", raising(OSError("libcudart.so.13: cannot open\nmore")))
    found = only(software.torch)
    told(found, FAILS, "cannot be imported: libcudart.so.13: cannot open", "pip install 'torch>=2.9'")
    assert found.needed


def test_torchvision(monkeypatch: Patch) -> None:
    told(only(software.torchvision), OK, "fits this torch")
    error = RuntimeError("operator torchvision::nms does not exist")
    monkeypatch.setattr(software.importlib, "import_module", raising(error))
    found = only(software.torchvision)
    told(found, FAILS, str(error), "pip install --upgrade torch torchvision")
    assert not found.needed


@pytest.mark.parametrize(
    "name, version, needed", [("timm", None, False), ("numpy", "1.20", True), ("rich", None, True)]
)
def test_packages(monkeypatch: Patch, name: str, version: str | None, needed: bool) -> None:
    told(only(software.packages), OK, f"torch {software.installed('torch')}", "timm ")
    assert "pytest" not in only(software.packages).found  # an extra's
    real = software.installed
    monkeypatch.setattr(software, "installed", lambda package: version if package == name else real(package))
    found = only(software.packages)
    (requirement,) = (str(r) for r in software.requirements() if r.name == name)
    told(found, FAILS, f"{name} is {version or 'not installed'}, and {requirement} is", f"pip install '{requirement}'")
    assert found.needed == needed


PROVIDING = """
from robustdistill import hookimpl
def mine(z): return z.s
@hookimpl
def register_outer_objectives(): return {"NAME": mine}
"""


@pytest.mark.parametrize(
    "source, state, words",
    [
        (PROVIDING.replace("NAME", "mine"), OK, ["sorry 1.2 works: outer objectives mine"]),
        ("", NOTE, ["sorry 1.2 (ill) provides nothing", "@hookimpl"]),
        ("import nowhere_at_all", FAILS, ["sorry 1.2 does not load", "No module named 'nowhere_at_all'", "uninstall"]),
    ],
)
def test_plugins(tmp_path: Path, monkeypatch: Patch, source: str, state: str, words: list[str]) -> None:
    (alone,) = checks.examine(ASKED, [software.plugins])
    told(alone, OK, "8 built in, 0 others")
    install(tmp_path, monkeypatch, source)
    first, second = checks.examine(ASKED, [software.plugins])
    told(first, OK, "8 built in, 1 others")
    told(second, state, *words)
    assert (second.check, second.needed) == ("plugin ill", False)


@pytest.mark.parametrize(("name", "needed"), [("mmard", True), ("rslad", False)])
def test_two_units_of_one_name_stop_what_asks_for_them(
    tmp_path: Path, monkeypatch: Patch, name: str, needed: bool
) -> None:
    install(tmp_path, monkeypatch, PROVIDING.replace("NAME", name))
    first, second, clash = checks.examine(ASKED, [software.plugins])
    told(first, OK, "8 built in, 1 others")
    told(second, OK, f"sorry 1.2 works: outer objectives {name}")
    told(clash, FAILS, f"outer '{name}' is registered twice", "sorry 1.2 (ill)", "uninstall one of them")
    assert clash.needed == needed


# ---- machine ------------------------------------------------------------------------------------------------
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@NO_GPU
def test_without_a_gpu(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "none")
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    told(only(machine.device, Asked("cpu")), OK, "cpu: ")
    told(only(machine.device), OK, "cpu: ", "; no CUDA: ")
    found = only(machine.device, Asked("cuda"))
    told(found, FAILS, "--device cuda: this machine offers 0 CUDA devices to torch", "nvidia-smi", "--device cpu")
    assert found.needed
    told(only(machine.device, Asked("tpu9x")), FAILS, "'tpu9x' is no device")
    for check in (machine.arithmetic, machine.formats):
        told(only(check, Asked("cuda")), NOTE, "there is no such device")


@NO_GPU
def test_a_gpu_that_torch_cannot_use(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "DRIVER", tmp_path)
    old = RuntimeError("The NVIDIA driver on your system is too old (found version 11000).\nPlease update")
    monkeypatch.setattr("torch.cuda.init", raising(old))
    told(only(machine.device), NOTE, "GPU cannot be used: The NVIDIA driver on your system is too old", "nvidia-smi")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told(only(machine.device), NOTE, "unset CUDA_VISIBLE_DEVICES ('' now)")


@pytest.mark.parametrize("free, state", [(70e9, OK), (1e9, NOTE)])
def test_with_a_gpu(monkeypatch: Patch, free: float, state: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (free, 80e9))
    told(only(machine.device), state, f"cuda: Some GPU, {free / 1e9:.1f} GB of 80.0 GB free")


def test_arithmetic(monkeypatch: Patch) -> None:
    told(only(machine.arithmetic, Asked("cpu")), OK, "runs forwards and backwards on cpu")
    real = torch.nn.functional.conv2d

    def wrong(x: torch.Tensor, w: torch.Tensor, **options: Any) -> torch.Tensor:
        return real(x, w, **options) * (1.1 if x.dtype == torch.float32 else 1.0)

    monkeypatch.setattr("torch.nn.functional.conv2d", wrong)
    told(only(machine.arithmetic, Asked("cpu")), FAILS, "on cpu is off by 21.0%", "install torch again")
    error = RuntimeError("CUDA error: no kernel image is available\nmore")
    monkeypatch.setattr("torch.nn.functional.conv2d", raising(error))
    found = only(machine.arithmetic, Asked("cpu"))
    told(found, FAILS, "a small convolution fails on cpu: CUDA error: no kernel image is available", "pytorch.org")
    assert found.needed


def test_where_the_current_folder_was_deleted(tmp_path: Path) -> None:
    script = "import os, sys; os.rmdir(os.getcwd()); from robustdistill.cli import main; main(['doctor', '--json'])"
    (tmp_path / "gone").mkdir()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path / "gone")
    assert done.returncode == 2, done.stderr
    (found,) = json.loads(done.stdout)["checks"]
    assert (found["check"], found["state"], found["needed"]) == ("current folder", FAILS, True)
    assert "cannot be used: [Errno 2] No such file or directory" in found["found"]


@pytest.mark.parametrize("fast, word", [(True, "bf16 by default"), (False, "fp32 by default")])
def test_formats(monkeypatch: Patch, fast: bool, word: str) -> None:
    monkeypatch.setattr(execution, "cpu_computes_bf16", lambda: fast)
    told(only(machine.formats, Asked("cpu")), OK, word)


def test_compiler(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setenv("CXX", f"'{sys.executable}' -I")  # anything that answers --version
    told(only(machine.compiler, Asked("cpu")), NOTE, "Python's headers are missing", "python3-dev", "--mode eager")
    (tmp_path / "Python.h").touch()
    told(only(machine.compiler, Asked("cpu")), OK, "Python 3.")
    for broken in ("no-such-compiler", "'", "false"):
        monkeypatch.setenv("CXX", broken)
        told(only(machine.compiler, Asked("cpu")), NOTE, f"there is no C++ compiler ({broken})", "install one")


def test_compiler_for_a_gpu(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(machine, "installed", lambda package: "3.8.0")
    monkeypatch.setenv("CC", f"'{sys.executable}'")
    told(only(machine.compiler), OK, "Python 3.")
    monkeypatch.setenv("CC", "no-such-compiler")
    told(only(machine.compiler), NOTE, "there is no C compiler (no-such-compiler)")
    monkeypatch.setattr(machine, "installed", lambda package: None)
    told(only(machine.compiler), NOTE, "there is no triton", "pip install triton")


def test_threads(monkeypatch: Patch) -> None:
    monkeypatch.setattr(machine, "allowed_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    told(only(machine.threads), OK, f"4 for 4 of {os.cpu_count()} cores (OMP_NUM_THREADS=3)")
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    told(only(machine.threads), NOTE, "64 for 4", "set OMP_NUM_THREADS=4")


@pytest.mark.parametrize(
    "files, cores",
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_cores_that_a_container_grants(tmp_path: Path, monkeypatch: Patch, files: dict[str, str], cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert machine.allowed_cores() == cores


# ---- places -------------------------------------------------------------------------------------------------
def test_home(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    told(only(places.home), OK, str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    told(only(places.home), NOTE, "none is no folder", "set HOME")
    monkeypatch.setattr(Path, "home", raising(RuntimeError("Could not determine home directory.")))
    told(only(places.home), NOTE, "there is none: Could not determine home directory.", "set HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    told(only(places.cache), NOTE, "there is none: no home folder", "XDG_CACHE_HOME")


def test_caches(monkeypatch: Patch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept = tmp_path / "robustdistill"
    hub = lambda folder, offline: lambda: (folder, offline)  # noqa: E731
    for check, name in ((places.cache, "XDG_CACHE_HOME"), (places.hub_cache, "HF_HOME")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(download, "hub_cache", hub(kept, False))
        kept.exists() and kept.rename(tmp_path / "aside")
        told(only(check), OK, f"{kept}, made when it is needed")
        kept.mkdir()
        (kept / "a").write_bytes(bytes(3_000_000))
        (kept / "b").symlink_to(kept / "a")
        told(only(check), OK, f"{kept}, 3 MB")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        monkeypatch.setattr(download, "hub_cache", hub(tmp_path / "file" / "hub", False))
        told(only(check), NOTE, "cannot be written: not a directory", f"set {name}")
    monkeypatch.setattr(download, "hub_cache", hub(kept, True))
    told(only(places.hub_cache), OK, "HF_HUB_OFFLINE is set, nothing is downloaded")


def test_a_large_cache_is_not_added_up_to_its_end(monkeypatch: Patch, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(2_000_000))
    monkeypatch.setattr(places, "PATIENCE", -1.0)
    assert places.used(tmp_path) == "more than 2 MB"


def test_temporary_files(monkeypatch: Patch) -> None:
    told(only(places.temporary_files), OK, "")
    monkeypatch.setattr("tempfile.gettempdir", raising(FileNotFoundError("No usable temporary directory")))
    found = only(places.temporary_files)
    told(found, FAILS, "No usable temporary directory", "set TMPDIR")
    assert not found.needed


@pytest.mark.parametrize("free, state", [(0.9e9, FAILS), (1.1e9, NOTE), (4.9e9, NOTE), (5.1e9, OK)])
def test_disk(monkeypatch: Patch, tmp_path: Path, free: float, state: str) -> None:
    usage = namedtuple("usage", "total used free")
    asked: list[Path] = []
    monkeypatch.setattr("shutil.disk_usage", lambda path: asked.append(path) or usage(9e9, 0, free))
    found = only(places.disk, Asked(runs=tmp_path / "no" / "runs"))
    told(
        found, state, f"runs go to {tmp_path / 'no' / 'runs'}", finding.size(free), *(["--out"] if state != OK else [])
    )
    assert (found.needed, asked) == (state == FAILS, [tmp_path])
    assert list(tmp_path.iterdir()) == []


def test_runs_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    found = only(places.disk, Asked(runs=tmp_path / "runs"))
    told(found, FAILS, "cannot be written: not a directory", "--out")
    assert found.needed


def test_runs(tmp_path: Path) -> None:
    asked = Asked(runs=tmp_path)
    told(only(places.runs, asked), OK, f"0 under {tmp_path}")
    run = rundir.create(tmp_path / "a", "", {})
    with run.locked():
        told(only(places.runs, asked), OK, "1 under")
        lock = (run.path / "lock").read_text()
    (run.path / "lock").write_text(re.sub(r'"born": "[^"]*"', '"born": "1"', lock))
    (run.checkpoints / f".tmp-epoch-0001-{os.getpid()}").mkdir()
    found = only(places.runs, asked)
    told(found, NOTE, "1 locks of processes that are gone, 1 half-written files", "train --resume")
    told(found, NOTE, str(run.path / "lock"), ".tmp-epoch-0001")


def test_encoding(monkeypatch: Patch) -> None:
    monkeypatch.setattr("locale.getencoding", lambda: "UTF-8")
    told(only(places.encoding), OK, "texts in UTF-8")
    monkeypatch.setattr("locale.getencoding", lambda: "ANSI_X3.4-1968")
    told(only(places.encoding), NOTE, "texts in ANSI_X3.4-1968", "PYTHONUTF8=1")


def test_clock(monkeypatch: Patch) -> None:
    told(only(places.clock), OK, "UTC")
    monkeypatch.setattr("time.time", lambda: 0.0)
    told(only(places.clock), NOTE, "1970-01-01 00:00 UTC, which is before this package was installed", "set it")


# ---- data ---------------------------------------------------------------------------------------------------
def of_data(name: str, **asked: Any) -> Finding:
    (found,) = (f for f in checks.examine(Asked(**asked), [images.data]) if f.check == f"data {name}")
    return found


def test_the_digits() -> None:
    told(of_data("digits"), OK, "1,797 images inside the package")
    wrong = of_data("digits", data_dir=Path())
    told(wrong, FAILS, "takes no --data-dir", "leave --data-dir out")
    assert wrong.needed


def test_digits_that_are_damaged(monkeypatch: Patch) -> None:
    broken = raising(ValueError("cut short"))
    monkeypatch.setattr("robustdistill.data.sources.np.load", broken)
    found = of_data("digits")
    told(found, FAILS, "digits.npz of robustdistill itself is damaged; install robustdistill again")
    assert found.needed


def test_a_cifar_that_would_be_downloaded(monkeypatch: Patch, tmp_path: Path) -> None:
    told(of_data("cifar10"), NOTE, "not on disk, and HF_HUB_OFFLINE forbids to download it", "unset HF_HUB_OFFLINE")
    found = of_data("cifar10", data="cifar10")
    told(found, FAILS, "HF_HUB_OFFLINE")
    assert found.needed
    monkeypatch.setattr(download, "hub_cache", lambda: (tmp_path, False))
    for name in ("cifar10", "cifar100"):
        told(of_data(name, data=name), OK, "would be downloaded, once")


def test_a_cifar_on_disk(monkeypatch: Patch, tmp_path: Path) -> None:
    found = of_data("cifar10", data="cifar10", data_dir=tmp_path)
    told(found, FAILS, f"{tmp_path} holds no CIFAR-10", "--data")
    assert found.needed
    told(of_data("cifar10", data="cifar10", data_dir=tmp_path / "none"), FAILS, "there is no folder")
    batches = tmp_path / "robustdistill" / cifar_batches.CIFAR10.folder
    batches.mkdir(parents=True)
    (batches / cifar_batches.CIFAR10.test).touch()
    told(of_data("cifar10", data="cifar10", data_dir=batches.parent), OK, f"on disk: {batches.parent}")
    told(of_data("cifar10", data="digits"), NOTE, "not on disk")  # the folder that was given is another's
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told(of_data("cifar10"), OK, f"on disk: {batches.parent}")


def test_data_that_nobody_knows() -> None:
    found = of_data("cifar11", data="cifar11")
    told(found, FAILS, "unknown dataset 'cifar11'; did you mean 'cifar10'?")
    assert found.needed


def test_data_of_a_plugin(tmp_path: Path, monkeypatch: Patch, request: pytest.FixtureRequest) -> None:
    source = """
from robustdistill import hookimpl
from robustdistill.types import Augment, Dataset
@hookimpl
def register_datasets():
    return {"mine": Dataset(None, ("a", "b"), 1, 8, 0.2, Augment(), "digits-net", "digits-robust", needs_dir=True)}
"""
    install(tmp_path, monkeypatch, source)
    default_registry.cache_clear()
    request.addfinalizer(default_registry.cache_clear)
    told(of_data("mine", data="mine"), FAILS, "sorry 1.2 (ill) brings no images", "--data-dir")
    told(of_data("mine", data="mine", data_dir=tmp_path / "none"), FAILS, "there is no folder")
    told(of_data("mine", data="mine", data_dir=tmp_path), OK, "its images are read when a run starts")


# ---- all of it ----------------------------------------------------------------------------------------------
def test_a_check_that_fails_itself_is_a_finding() -> None:
    def weather(_: Asked) -> Finding:
        raise KeyError("rain\nand wind")

    found = only(weather)
    told(found, FAILS, "this check itself fails: KeyError: ", "report it")
    assert (found.check, found.needed) == ("weather", True)


@pytest.mark.parametrize(
    "states, last",
    [
        ([(OK, False), (NOTE, False)], "nothing would fail"),
        ([(OK, False), (FAILS, False)], "1 thing would fail, but not `robustdistill train`"),
        ([(FAILS, True), (NOTE, False), (FAILS, False)], "2 things would fail; `robustdistill train` needs: a"),
    ],
)
def test_the_last_line(states: list[tuple[str, bool]], last: str) -> None:
    findings = [Finding(name, state, "", "", needed) for name, (state, needed) in zip("abc", states, strict=False)]
    assert verdict(findings, "robustdistill train") == last


@dataclass(frozen=True)
class Done:
    code: object
    out: str
    err: str


def rd(*args: str) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main(args)
    return Done(end.value.code, out.getvalue(), err.getvalue())


def test_the_command(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    done = rd("doctor", "--device", "cpu")
    names = re.findall(r"^(\S.*?)  +(ok|note|fails)  ", done.out, re.M)
    expected = "python torch torchvision packages plugins device arithmetic formats compiler threads home cache"
    expected += " hub-cache temporary-files disk runs encoding clock data-digits data-cifar10 data-cifar100"
    assert " ".join(name.replace(" ", "-") for name, _ in names) == expected
    assert (done.code, done.out.splitlines()[-1]) == (0, "nothing would fail")
    assert done.err == ""
    assert list(tmp_path.iterdir()) == []


def test_the_command_in_json(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    done = rd("doctor", "--json", "--device", "cpu", "--data", "cifar100", "--data-dir", "a b")
    (record,) = map(json.loads, done.out.splitlines())
    assert done.code == 2
    assert (record["event"], record["works"], record["failing"]) == ("doctor", False, 1)
    assert record["train"] == "robustdistill train --device cpu --data cifar100 --data-dir 'a b'"
    (failing,) = (c for c in record["checks"] if c["state"] == "fails")
    assert (failing["check"], failing["needed"]) == ("data cifar100", True)
    assert failing["found"].startswith("there is no folder a b;")


def test_it_works_where_torch_does_not() -> None:
    script = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name=name)
sys.meta_path.insert(0, Missing())
from robustdistill.cli import main
main(["doctor"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "")
    assert re.search(r"^torch +fails +cannot be imported: No module named 'torch'. Do: ", done.stdout, re.M)
    assert re.search(r"^disk +(ok|note) ", done.stdout, re.M)
    assert re.search(r"^\d things would fail; `robustdistill train` needs: torch, ", done.stdout, re.M)
