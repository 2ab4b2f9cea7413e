"""The same run twice: what a result depends on, and all that it does not depend on."""

import functools
import hashlib
import json
import os
import pty
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustdistill as rd
from games import Tiny, images, teacher
from robustdistill import arithmetic, assemble
from robustdistill.cli import main
from robustdistill.data.loader import draw
from robustdistill.errors import UserError
from robustdistill.events import Event, Finished, Stepped
from robustdistill.registry import default_registry
from robustdistill.resolve import resolve
from robustdistill.spec import from_layer
from robustdistill.surroundings import WORKSPACE, deterministic_cublas, driven, in_order
from robustdistill.types import Augment

METHODS = default_registry().names("method")
TIMES = {"time", "seconds", "images_per_second"}
SPEC: dict[str, Any] = {
    "epochs": 2,
    "limit_batches": 2,
    "batch_size": 16,
    "student": {"name": "digits-net", "width": 4},
    "teachers": {"robust": "digits-robust", "clean": "digits-clean"},
    "select": {"n": 10},
    "device": "cpu",
}


def layer(method: str = "mmard", **changes: Any) -> dict[str, Any]:
    """A short run of `method`, with the teachers that it reads."""
    spec = SPEC | {"method": method} | ({"attack": {"steps": 2, "step": "eps/2"}} if method != "nature" else {})
    roles = ("robust", "clean") if method in ("mtard", "iad-ii") else ("robust",)
    return spec | {"teachers": {role: SPEC["teachers"][role] for role in roles}} | changes


def told(events: Iterator[Event]) -> str:
    """All that a run told, times apart, as text: equal text, equal bits."""
    plain = [{"event": type(e).__name__} | {k: v for k, v in asdict(e).items() if k not in TIMES} for e in events]
    return json.dumps(plain, sort_keys=True)


def run(method: str = "mmard", **changes: Any) -> str:
    return told(rd.train(layer(method, **changes)))


@functools.cache
def once(method: str = "mmard") -> str:
    torch.set_num_threads(1)
    return run(method)


# ---- twice --------------------------------------------------------------------------------------------------
EVERY_METHOD = """
import json, sys
from pathlib import Path
import torch
import robustdistill as rd
from test_determinism import METHODS, TIMES, layer

torch.set_num_threads(1)
for method in METHODS:
    list(rd.train(layer(method), out=sys.argv[1] + "/" + method))
"""


def process(*args: object, **environment: str) -> str:
    """Python in a process of its own: what it prints."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, args)], env=env | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Every method trained in two processes that hash, sort, spell and store differently, and stand elsewhere."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    environments: list[dict[str, str]] = [
        {"PYTHONHASHSEED": "1", "LC_ALL": "C", "ROBUSTDISTILL_PLUGINS": ""},
        {"PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8", "ROBUSTDISTILL_PLUGINS": "", "TMPDIR": str(folders[1])},
    ]
    for folder, environment in zip(folders, environments, strict=True):
        process("-c", f"import os; os.chdir({str(folder)!r})\n{EVERY_METHOD}", folder, **environment)
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_same_spec_and_seed_give_the_same_files(two_processes: tuple[Path, Path], method: str) -> None:
    one, two = (folder / method for folder in two_processes)
    assert (one / "result.json").read_bytes() == (two / "result.json").read_bytes()
    assert (one / "spec.toml").read_bytes() == (two / "spec.toml").read_bytes()
    assert logged(one) == logged(two)
    assert weights(one) == weights(two)


def logged(run: Path) -> list[dict[str, Any]]:
    lines = (run / "events.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def weights(run: Path) -> dict[str, str]:
    files = run.rglob("*.safetensors")
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_a_result_holds_neither_times_nor_paths(two_processes: tuple[Path, Path]) -> None:
    for method in METHODS:
        text = (two_processes[0] / method / "result.json").read_text()
        assert str(two_processes[0]) not in text
        assert not any(f'"{name}"' in text for name in (*TIMES, "path", "created"))


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_gives_another_run(method: str) -> None:
    losses = [
        [e.loss for e in rd.train(layer(method, seed=seed, epochs=1)) if isinstance(e, Stepped)] for seed in (0, 1)
    ]
    assert losses[0] != losses[1]


def test_several_seeds_are_the_single_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["train", "--method", "rslad", "--epochs", "1", "--batch-size", "24", "--steps", "1"]
    flags += [
        "--set",
        "limit_batches=2",
        "--set",
        "select.n=20",
        "--set",
        "attack.step=eps",
        "--set",
        "student.width=4",
    ]
    for more in (
        ["--seeds", "0,1", "--out", "both"],
        ["--seed", "1", "--out", "one"],
        ["--seed", "0", "--out", "zero"],
    ):
        with pytest.raises(SystemExit) as end:
            main([*flags, *more])
        assert end.value.code == 0
    for together, alone in (("both/s0", "zero"), ("both/s1", "one")):
        assert Path(together, "result.json").read_bytes() == Path(alone, "result.json").read_bytes()
        assert weights(Path(together)) == weights(Path(alone))


@pytest.mark.slow
def test_a_terminal_changes_nothing_of_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "robustdistill", "train", "--method", "sat", "--epochs", "1", "--steps", "1"]
    command += ["--batch-size", "16"]
    command += ["--set", "limit_batches=2", "--set", "select.n=20", "--set", "attack.step=eps", "--out"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm"}
    piped = subprocess.run([*command, "piped"], cwd=tmp_path, env=env, capture_output=True, check=False)
    reader, terminal = pty.openpty()
    drawn = subprocess.Popen([*command, "drawn"], cwd=tmp_path, env=env, stderr=terminal, stdout=subprocess.DEVNULL)
    os.close(terminal)
    shown = b"".join(iter(functools.partial(_read, reader), b""))
    os.close(reader)
    assert (piped.returncode, drawn.wait()) == (0, 0)
    assert b"\x1b[" in shown
    one, two = tmp_path / "piped", tmp_path / "drawn"
    assert (one / "result.json").read_bytes() == (two / "result.json").read_bytes()
    assert weights(one) == weights(two)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""


# ---- threads ------------------------------------------------------------------------------------------------
def with_threads(make: Callable[[], Any], counts: tuple[int, ...] = (1, 2)) -> list[Any]:
    try:
        return [(torch.set_num_threads(n), make())[1] for n in counts]
    finally:
        torch.set_num_threads(1)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def draws() -> list[Any]:
    """What is promised whatever the number of threads: all that is drawn, and all that is cut or named."""
    registry = default_registry()
    spec = resolve([layer()], registry)
    digits = registry.get("dataset", "digits")
    splits = assemble.load_data(digits, "digits", None)
    large = draw(50_000, Augment(4, True), 3, 7)
    make = assemble.judging_generator(0, torch.device("cpu"), registry)
    return [
        [large.order, large.dy, large.dx, large.flip],
        torch.empty(200_000).uniform_(-1, 1, generator=make("pgd", 250)),
        torch.empty(200_000).normal_(0, 0.001, generator=make("pgd", 250)),
        spec.hash(),
        dict(assemble.build_student(resolve([layer(student="rn-18")], registry), digits, registry).state_dict()),
        [(s.images, s.labels) for s in (splits.train, splits.holdout, splits.test)],
    ]


def test_what_is_drawn_does_not_depend_on_threads() -> None:
    assert same(*with_threads(draws))


def test_verdicts_on_the_digits_do_not_depend_on_threads() -> None:
    def verdicts() -> list[Tensor]:
        return [v.correct for v in rd.evaluate("digits-robust", attacks=["fgsm", "pgd", "cw"], n=30)]

    assert same(*with_threads(verdicts))


# ---- surroundings -------------------------------------------------------------------------------------------
@contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def seeds() -> Iterator[None]:
    torch.manual_seed(1234)
    np.random.seed(1234)
    random.seed(1234)
    yield


@contextmanager
def elsewhere() -> Iterator[None]:
    before = Path.cwd()
    os.chdir("/")
    try:
        yield
    finally:
        os.chdir(before)


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64 as default": float64,
    "meta as default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "other global seeds": seeds,
    "another folder": elsewhere,
    "deterministic algorithms": lambda: in_order(True),
}


@pytest.mark.parametrize("name", AROUND)
def test_a_run_does_not_depend_on_what_is_set_around_it(name: str) -> None:
    with AROUND[name]():
        inside = run()
    assert inside == once()


@pytest.mark.parametrize("name", AROUND)
def test_verdicts_do_not_depend_on_what_is_set_around_them(name: str) -> None:
    x, y = images(30)

    def verdicts(around: AbstractContextManager[Any]) -> list[Any]:
        with around:
            return [v.correct for v in rd.evaluate("digits-robust", x, y, attacks=["pgd"], eps=0.1)]

    assert same(verdicts(AROUND[name]()), verdicts(nullcontext()))


def test_images_made_in_inference_mode_are_attacked_like_others() -> None:
    verdicts = []
    for around in (nullcontext(), torch.inference_mode()):
        with around:
            x, y = images(20)
            verdicts.append([v.correct for v in rd.evaluate("digits-robust", x, y, attacks=["fgsm", "pgd"], eps=0.1)])
    assert same(*verdicts)


def test_nothing_is_set_where_events_are_told() -> None:
    def state() -> list[Any]:
        return [
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_autocast_enabled("cpu"),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
        ]

    for around in (nullcontext(), torch.no_grad(), float64(), torch.autocast("cpu", torch.bfloat16)):
        with around:
            before = state()
            told_of = [state() for _ in rd.train(layer(deterministic=True))]
            assert all(found == before for found in told_of)
            assert state() == before


def test_who_leaves_early_finds_everything_as_it_was() -> None:
    def endless() -> Iterator[int]:
        try:
            while True:
                yield int(torch.get_default_dtype() == torch.float32)
        finally:
            closed.append(torch.get_default_dtype())

    closed = list[torch.dtype]()
    with float64():
        events = driven(endless())  # type: ignore[arg-type]
        assert next(events) == 1
        events.close()  # type: ignore[attr-defined]
        assert torch.get_default_dtype() == torch.float64
    assert closed == [torch.float32]


# ---- deterministic kernels ------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_on_a_cpu_deterministic_kernels_change_nothing(method: str) -> None:
    assert run(method, deterministic=True) == once(method)


def test_the_key_is_no_part_of_the_hash() -> None:
    spec = resolve([layer()], default_registry())
    other = from_layer(spec.model_dump(by_alias=True) | {"deterministic": True})
    assert (other.deterministic, other.hash()) == (True, spec.hash())


class Unsteady(Tiny):
    """A student of which one operation has no deterministic form."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not x.is_meta:
            torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))
        return super().forward(x)


def test_a_kernel_without_a_deterministic_form_is_named() -> None:
    spec = layer("nature", epochs=1)
    with pytest.raises(UserError, match=r"^deterministic = true: put_ .*not have a deterministic .*leave the key out"):
        list(rd.train(spec | {"deterministic": True}, student=Unsteady()))
    assert not torch.are_deterministic_algorithms_enabled()
    assert isinstance(list(rd.train(spec, student=Unsteady()))[-1], Finished)


def test_other_errors_stay_what_they_are() -> None:
    class Breaks(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            if self.training and not x.is_meta:
                raise RuntimeError("something else")
            return super().forward(x)

    with pytest.raises(RuntimeError, match=r"^something else$"):
        list(rd.train(layer("nature", deterministic=True), student=Breaks()))


def test_cublas_gets_its_workspace_or_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    deterministic_cublas(torch.device("cpu"))
    assert WORKSPACE not in os.environ
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment"):
        deterministic_cublas(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setenv(WORKSPACE, ":16:8")
    deterministic_cublas(torch.device("cuda"))
    assert os.environ[WORKSPACE] == ":16:8"
    monkeypatch.setenv(WORKSPACE, "nonsense")
    deterministic_cublas(torch.device("cuda"))
    assert os.environ[WORKSPACE] == ":4096:8"


def test_a_module_that_the_caller_made_in_float64_trains_as_one_in_float32() -> None:
    def trained(student: nn.Module) -> str:
        return told(rd.train(layer(epochs=1), student=student, teacher=teacher()))

    assert trained(Tiny().double()) == trained(Tiny().double().float())


# ---- float32 ----------------------------------------------------------------------------------------------
SHORTER: dict[str, Callable[[], None]] = {
    "TF32 everywhere": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "TF32 in convolutions, the old way": lambda: setattr(torch.backends.cudnn, "allow_tf32", True),
    "TF32 in products, the old way": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "TF32 in products": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "bf16 in products": lambda: torch.set_float32_matmul_precision("medium"),
    "full convolutions": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
}
PRECISIONS = """
import torch
from test_determinism import SHORTER, judged_and_trained, precisions

class Net(torch.nn.Linear):
    def forward(self, x):
        seen.append(precisions())
        return super().forward(x.flatten(1))

for way, ask in SHORTER.items():
    seen = []
    torch.backends.fp32_precision = "none"
    ask()
    before = precisions()
    judged_and_trained(Net(64, 10))
    assert seen and all(found == ["ieee"] * 6 for found in seen), (way, seen)
    assert precisions() == before, (way, before, precisions())
"""


def precisions() -> list[str]:
    """The format of each kind of operation on float32 that a network may use."""
    return [kind.fp32_precision for kind in arithmetic._kinds()]


def judged_and_trained(network: nn.Module) -> None:
    """Verdicts in public, and a run by deterministic kernels, whose student is `network` both times."""
    x, y = images(8)
    list(rd.evaluate(network, x, y, attacks=["fgsm"], eps=0.1))
    spec = layer(deterministic=True, method="nature", limit_batches=1, epochs=1)
    list(rd.train(spec, student=network))


@pytest.mark.slow
def test_what_is_reported_is_computed_in_float32_whatever_shorter_formats_are_allowed() -> None:
    """In a process of its own: what is mixed of torch's two ways to say so stays mixed."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PRECISIONS], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
