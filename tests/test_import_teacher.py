"""Files of weights that only their own code can read: what is refused, what is run where, and what is kept of it."""

import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustdistill.builtin.models import digits_net, mobilenet
from robustdistill.cli import import_teacher, main
from robustdistill.errors import DamagedFile, UnsafeFile
from robustdistill.store import foreign, formats, pickled, unpickle
from robustdistill.store.weights import as_bytes, read_weights, save_weights


@dataclass(frozen=True)
class Done:
    code: object
    out: str
    err: str


def rd(*args: object) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main([str(a) for a in args])
    return Done(end.value.code, out.getvalue(), err.getvalue())


def net() -> nn.Module:
    return digits_net.build(num_classes=10, in_channels=1, width=2)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)


class Hostile:
    """Runs Python code when it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


CANARY = """
import json, os, sys
with open({path!r}, "x") as file:
    told = {{"pid": os.getpid(), "environ": dict(os.environ), "cwd": os.getcwd(), "stdin": sys.stdin.read()}}
    json.dump(told | {{"argv": sys.argv, "isolated": sys.flags.isolated}}, file)
print("a lie on stdout")
"""


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A teacher's file, with code beside its weights that writes the file `canary` when it runs."""
    monkeypatch.chdir(tmp_path)
    arrays = {k: v.numpy() for k, v in net().state_dict().items()}
    content = {"state_dict": arrays, "epoch": 3, "x": Hostile(CANARY.format(path=str(tmp_path / "canary")))}
    (tmp_path / "teacher.pth").write_bytes(pickle.dumps(content))
    return Path("teacher.pth")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- without the flag ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("args", [["import-teacher"], ["import-teacher", "--path", "."], ["eval"]])
def test_without_the_flag_nothing_runs(hostile: Path, tmp_path: Path, args: list[str]) -> None:
    done = rd(*args, hostile)
    assert (done.code, done.out) == (4, "")
    assert done.err.count("\n") == 1
    assert "was refused and nothing in it was executed" in done.err
    assert "would run code (builtins.exec, " in done.err  # first, whatever stands before it in the file
    assert "`robustdistill import-teacher teacher.pth --trust-pickle` runs that code once" in done.err
    assert names(tmp_path) == ["teacher.pth"]


def test_the_command_in_the_sentence_can_be_pasted(tmp_path: Path) -> None:
    path = tmp_path / "a file.pt"
    path.write_bytes(pickle.dumps(Hostile("")))
    with pytest.raises(UnsafeFile, match=f"import-teacher '{path}' --trust-pickle"):
        read_weights(path)


# ---- with it ------------------------------------------------------------------------------------------------
def test_with_the_flag_it_runs_elsewhere_and_tensors_come_back(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "LD_PRELOAD_X"):
        monkeypatch.setenv(name, "secret")
    done = rd("import-teacher", hostile, "--trust-pickle")
    assert done.code == 0, done.err
    canary = json.loads((tmp_path / "canary").read_text())
    assert canary["pid"] != os.getpid()
    assert canary["cwd"] != str(tmp_path)
    assert not Path(canary["cwd"]).exists()
    assert canary["environ"]["HOME"] == canary["cwd"]
    assert (canary["stdin"], canary["isolated"]) == ("", 1)
    allowed = {*foreign.KEPT, "HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "LC_ALL", "CUDA_VISIBLE_DEVICES"}
    assert set(canary["environ"]) <= allowed
    assert "secret" not in str(canary)
    assert "lie" not in done.out
    (warning,) = done.err.splitlines()
    assert warning.startswith("warning: running the code in teacher.pth (builtins.exec, ")
    assert " as user " in warning or " as this user" in warning
    assert names(tmp_path) == ["canary", "teacher.pth", "teacher.safetensors"]
    assert equal(read_weights(Path("teacher.safetensors")), net_of(hostile))
    for line in (
        "file          teacher.safetensors",
        "from          teacher.pth; the code in it was run",
        "architecture  digits-net, width = 2",
        "tensors       32 of 272 parameters",
        "next          robustdistill train --teacher teacher.safetensors --data digits",
    ):
        assert line in done.out


def net_of(path: Path) -> dict[str, Tensor]:
    """The arrays in the hostile file, had without its code."""
    content = path.read_bytes().replace(b"exec", b"repr")
    return {k: torch.from_numpy(v) for k, v in pickle.loads(content)["state_dict"].items()}


def test_a_module_of_somebodys_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, work = tmp_path / "repository", tmp_path / "work"
    (source / "their_models").mkdir(parents=True)
    work.mkdir()
    (source / "their_models" / "__init__.py").write_text("from torch import nn\nclass Net(nn.Linear): pass\n")
    monkeypatch.chdir(work)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(source))
        made = __import__("their_models").Net(3, 2)
        torch.save({"model": nn.DataParallel(made), "best": 0.5}, "net.pth.tar")
    monkeypatch.delitem(sys.modules, "their_models")
    refused = rd("import-teacher", "net.pth.tar")
    assert "their_models.Net" in refused.err
    lacking = rd("import-teacher", "net.pth.tar", "--trust-pickle")
    assert (lacking.code, lacking.out, names(work)) == (4, "", ["net.pth.tar"])
    assert "error: net.pth.tar needs the module 'their_models', which cannot be imported here: fetch" in lacking.err
    assert "with --path DIR, or install it" in lacking.err
    done = rd("import-teacher", "net.pth.tar", "--trust-pickle", "--path", "../repository", "--out", "its.safetensors")
    assert done.code == 0, done.err
    assert "their_models" not in sys.modules
    assert equal(read_weights(Path("its.safetensors")), dict(made.state_dict()))
    assert "architecture  not recognised\n" in done.out
    assert "next          robustdistill train --teacher ARCH@its.safetensors --data NAME\n" in done.out


def test_a_safe_file_needs_no_flag_and_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    weights = mobilenet.build(num_classes=100, in_channels=3).state_dict()
    torch.save({"net": weights}, "t.pt")
    done = rd("import-teacher", "t.pt", "--trust-pickle")
    assert (done.code, done.err) == (0, "")
    assert "t.pt; nothing in it was run: it holds plain tensors, --trust-pickle was not needed\n" in done.out
    assert "next          robustdistill train --teacher t.safetensors --data cifar100\n" in done.out
    assert equal(read_weights(Path("t.safetensors")), weights)
    done = rd("import-teacher", "t.pt", "--out", "u.safetensors")
    assert "t.pt; nothing in it was run\n" in done.out
    assert Path("u.safetensors").read_bytes() == Path("t.safetensors").read_bytes()


def test_nothing_is_written_over_and_nothing_is_run_in_vain(hostile: Path, tmp_path: Path) -> None:
    Path("teacher.safetensors").write_text("mine")
    done = rd("import-teacher", hostile, "--trust-pickle")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: teacher.safetensors exists already; choose another --out\n"
    assert names(tmp_path) == ["teacher.pth", "teacher.safetensors"]
    assert Path("teacher.safetensors").read_text() == "mine"


def test_what_appears_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_weights(Path("t.bin"), {"a": torch.ones(2)})

    def slow(weights: Any) -> bytes:
        Path("t.safetensors").write_text("somebody else's")
        return as_bytes(weights)

    monkeypatch.setattr("robustdistill.store.weights.as_bytes", slow)
    done = rd("import-teacher", "t.bin")
    assert (done.code, done.err) == (2, "error: t.safetensors exists already; choose another --out\n")
    assert Path("t.safetensors").read_text() == "somebody else's"
    assert names(tmp_path) == ["t.bin", "t.safetensors"]


@pytest.mark.parametrize(
    "file, to",
    [
        ("a.pt", "a.safetensors"),
        ("a.pth.tar", "a.safetensors"),
        ("a.v1.best", "a.v1.best.safetensors"),
        ("x/a", "x/a.safetensors"),
    ],
)
def test_where_an_import_goes(file: str, to: str) -> None:
    assert import_teacher.beside(Path(file)) == Path(to)


def test_a_long_list_of_names_hides_none() -> None:
    usual = [f"torch.nn.modules.conv.Conv{i}d" for i in range(20)]
    told = import_teacher.warning(Path("t.pt"), [*usual, "posix.system"])
    assert "(posix.system, torch.nn.modules.conv.Conv0d, " in told
    assert " and 9 more) as " in told


# ---- processes that go wrong --------------------------------------------------------------------------------
def failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, limit: float = 600) -> str:
    """The sentence when the process runs `code` in the place of our reader: OUT is sys.argv[3]."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(foreign, "BOOT", code)
    with pytest.raises(DamagedFile) as caught:
        foreign.run_and_read(Path("t.pt"), limit=limit)
    assert names(scratch) == []
    return str(caught.value)


@pytest.mark.parametrize(
    "code, told",
    [
        ("import sys; sys.exit('first\\nRuntimeError: \\033[2Jno\\u202eway')", "its code: RuntimeError: [2Jnoway"),
        (
            "import os; os._exit(3)",
            "cannot be read, even by running its code: it ended with exit code 3 and said nothing",
        ),
        ("import os; os.kill(os.getpid(), 9)", "it ended with signal 9 and said nothing"),
        ("import os; os._exit(0)", "ended the process that read it before any weights were handed back"),
        ("import os, sys; os.mkfifo(sys.argv[3])", "before any weights were handed back"),
        ("import os, sys; os.symlink('/dev/zero', sys.argv[3])", "before any weights were handed back"),
        ("import sys; open(sys.argv[3], 'w').write('no weights')", "t.pt is truncated or garbled, or no weight file"),
        (
            "import sys; sys.exit(\"AttributeError: Can't get attribute 'Net' on <module '__main__' (built-in)>\")",
            "needs 'Net', which the script that wrote it defined itself and no module has; ask its author",
        ),
    ],
)
def test_whatever_the_process_does_ends_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, told: str
) -> None:
    sentence = failure(tmp_path, monkeypatch, code)
    assert sentence.startswith("t.pt ")
    assert told in sentence
    assert sentence.isprintable()
    assert "scratch" not in sentence


def test_what_takes_too_long_is_stopped_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beat = tmp_path / "beat"
    child = f"import time\nwhile True: open({str(beat)!r}, 'a').write('x'); time.sleep(0.01)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"

    class UntilItBeats(subprocess.Popen):  # type: ignore[type-arg]
        def wait(self, timeout: float | None = None) -> int:
            while timeout is not None and not beat.exists():
                time.sleep(0.01)
            return int(super().wait(timeout and 0.01))

    monkeypatch.setattr(subprocess, "Popen", UntilItBeats)
    sentence = failure(tmp_path, monkeypatch, code, limit=7)
    assert sentence == "t.pt was given up: its code still ran after 7 s; nothing was kept"
    size = beat.stat().st_size
    time.sleep(0.1)
    assert beat.stat().st_size == size


def test_an_interrupt_stops_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def wait(self, timeout: float | None = None) -> int:
            if not started:
                started.append(self)
                raise KeyboardInterrupt
            return int(super().wait(timeout))

    monkeypatch.setattr(foreign, "BOOT", "import time; time.sleep(60)")
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        foreign.run_and_read(Path("t.pt"))
    assert started[0].returncode == -9


# ---- the reader in the process ------------------------------------------------------------------------------
def written(path: Path, content: Any, kind: str) -> Path:
    if kind == "script":
        torch.jit.save(torch.jit.script(content), path)
    elif kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(kind[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path


@pytest.mark.parametrize("kind", ["zip", "old", "pickle 2", "pickle 4", "script"])
def test_every_format_is_read(tmp_path: Path, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; files of it are still about
        path = written(tmp_path / "w", module := net(), kind)
        with pytest.raises(UnsafeFile) as caught:
            read_weights(path)
        assert caught.value.code
        assert equal(unpickle.extract(unpickle.load(path)), dict(module.state_dict()))


def test_a_pickle_runs_once(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    code = f"with open({str(beat)!r}, 'a') as file: file.write('x')"
    for i, kind in enumerate(("pickle 2", "pickle 4", "old", "zip"), start=1):
        unpickle.load(written(tmp_path / "w", Hostile(code), kind))
        assert beat.read_text() == "x" * i


def test_what_is_taken_out_of_what_is_read() -> None:
    weights = dict(net().state_dict())
    for content in (
        net_with(weights),
        {"net": net_with(weights)},
        {"model": {"state_dict": {k: v.numpy() for k, v in weights.items()}}, "args": object(), "epoch": 3},
        {k: nn.Parameter(v, requires_grad=False) for k, v in weights.items()} | {"note": "x", 3: torch.ones(1)},
    ):
        assert equal(unpickle.extract(content), weights)


def net_with(weights: dict[str, Tensor]) -> nn.Module:
    module = net()
    module.load_state_dict(weights)
    return module


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3).T, np.arange(6, dtype=">i4"), np.arange(6.0)[::-1], np.array(True)]
)
def test_arrays_of_any_layout(array: Any) -> None:
    (found,) = unpickle.extract({"a": array}).values()
    assert found.tolist() == array.tolist()
    assert len(as_bytes({"a": found})) > 0


@pytest.mark.parametrize("content, told", [({"a": 1}, "a"), ([torch.ones(1)], "a list"), ({"a": np.array("x")}, "a")])
def test_what_holds_no_weights_says_so(content: Any, told: str) -> None:
    with pytest.raises(ValueError, match=rf"no weights \(found: {told}\)"):
        unpickle.extract(content)


def test_a_circle_ends() -> None:
    circle: dict[str, Any] = {"a": torch.ones(1)}
    circle["b"] = circle
    assert unpickle.extract(circle).keys() == {"a"}


# ---- the names in a pickle ----------------------------------------------------------------------------------
def text(word: str) -> bytes:
    return b"\x8c" + bytes([len(word)]) + word.encode()


DECOY = text("collections") + b"\x94" + text("OrderedDict") + b"\x94"
TRICKS: dict[str, Callable[[], bytes]] = {
    "names that were said long before": lambda: (
        text("os") + b"\x940" + text("system") + b"\x940" + DECOY + b"00" + b"h\x00h\x01\x93."
    ),
    "names behind what is thrown away": lambda: text("os") + text("system") + DECOY + b"00\x93.",
    "the old spelling": lambda: b"cos\nsystem\n.",
    "the oldest spelling": lambda: b"(S'ls'\nios\nsystem\n.",
    "a class that a call made": lambda: b"cbuiltins\ntype\n)R)\x81cos\nsystem\n0.",
    "arguments that a call made": lambda: b"cbuiltins\nlist\ncbuiltins\ntuple\n)RR0cos\nsystem\n.",
    "a fault further on": lambda: b"cos\nsystem\n" + b"0" * 9,
}


@pytest.mark.parametrize("trick", TRICKS)
def test_no_trick_hides_a_name(trick: str) -> None:
    program = b"\x80\x04" + TRICKS[trick]()
    assert pickled.named(io.BytesIO(program))[-1] == "os.system"


def test_a_name_that_is_computed_is_told_of() -> None:
    program = b"\x80\x04cbuiltins\nstr.upper\n" + text("os") + b"\x85R" + text("system") + b"\x93."
    assert pickled.named(io.BytesIO(program)) == ["builtins.str.upper", "?.system"]


def test_names_cannot_move_the_cursor_or_fill_the_screen() -> None:
    program = b"\x80\x04" + text("\x1b[2Jos") + text("sys\ntem") + b"\x93" + text("a" * 200) + text("b") + b"\x93."
    assert pickled.named(io.BytesIO(program)) == ["?[2Jos.sys?tem", "a" * 80]


def archive(first: object, name: str = "", second: object = None) -> bytes:
    """What torch writes, and another pickle behind it under another name, or the same."""
    file = io.BytesIO()
    torch.save(first, file)
    with zipfile.ZipFile(file, "a") as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two that are named alike
        if name:
            made.writestr(f"{made.namelist()[0].partition('/')[0]}/{name}", pickle.dumps(second, protocol=2))
    return file.getvalue()


def old_format(*extra: object) -> bytes:
    """As torch wrote before zip archives: magic, version, system, the object, the keys of storages."""
    parts = [torch.serialization.MAGIC_NUMBER, 1001, {}, *extra]
    return b"".join(pickle.dumps(part, protocol=2) for part in parts)


TWO_FACED: dict[str, Callable[[Hostile], bytes]] = {
    "the first of one name": lambda bad: archive(bad, "data.pkl", np.ones(1)),
    "the second of one name": lambda bad: archive(np.ones(1), "data.pkl", bad),
    "one whose name is spelt otherwise": lambda bad: archive(np.ones(1), "DATA.PKL", bad),
    "one behind a program's mark": lambda bad: archive(bad, "CONSTANTS.PKL", np.ones(1)),
    "a zip that follows": lambda bad: pickle.dumps(bad, 2) + archive(np.ones(1)),
    "an old file with a zip": lambda bad: old_format(bad, []) + archive(np.ones(1)),
    "behind the object": lambda bad: old_format(np.ones(1), bad),
}


@pytest.mark.parametrize("kind", TWO_FACED)
def test_what_would_run_is_what_is_named(tmp_path: Path, kind: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "w.pt"
    path.write_bytes(TWO_FACED[kind](Hostile(f"import os; os.mkdir({str(marker)!r})")))
    with pytest.raises(UnsafeFile) as caught:
        read_weights(path)
    assert "__builtin__.exec" in caught.value.code  # as Python 2 spelt it, whose protocol this is
    assert not marker.exists()
    if "name" not in kind:  # the control; of two that are named alike, the version of torch decides which is read
        with contextlib.suppress(Exception):
            unpickle.load(path)
        assert marker.exists()


def test_following_a_pickle_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    program = pickle.dumps({"a": [Hostile(f"open({str(marker)!r}, 'w')")], "b": np.ones(2), "c": net()})
    assert "builtins.exec" in pickled.named(io.BytesIO(program))
    assert not marker.exists()


def test_unusual_names_come_first() -> None:
    code = ["torch.nn.modules.conv.Conv2d", "numpy.dtype", "os.system", "collections.Counter", "torch.hub.load"]
    assert formats.listed(code, 2) == "os.system, torch.hub.load and 3 more"
    assert formats.listed(code[:2], 2) == "torch.nn.modules.conv.Conv2d, numpy.dtype"
