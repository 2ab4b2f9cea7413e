"""Every file that is read, with every fault: a sentence of its own and an exit code, and nothing in it runs.

The table is `KINDS`; docs/reliability.md quotes its size.
"""

import io
import json
import pickle
import resource
import shutil
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import robustdistill as rd
from hostile import BYTES, CANARY, FAULTS, Program, copied, flip, spoil
from robustdistill.builtin.models import digits_net
from robustdistill.data import download
from robustdistill.data.sources import cifar10, digits
from robustdistill.errors import DamagedFile, RobustDistillError, UnsafeFile, UserError
from robustdistill.store import checkpoint, pickled, rundir, sealed
from robustdistill.store.partial import Partial
from robustdistill.store.weights import read_weights, save_weights
from test_checkpoint import forge
from test_cli import rd as command
from test_data import TEST, TRAIN, assert_tiny, batch, encoded, write_batches, write_parquet

SPEC: dict[str, Any] = {
    "method": "nature",
    "epochs": 2,
    "limit_batches": 2,
    "batch_size": 16,
    "student": {"name": "digits-net", "width": 4},
    "select": {"n": 20, "attack": "fgsm"},
    "average": "ema",
    "device": "cpu",
}
QUICK = ("--attacks", "fgsm", "--n", "20", "--device", "cpu")
Told = tuple[int, str]  # exit code, sentences


def net() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return digits_net.build(num_classes=10, in_channels=1, width=4).state_dict()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judged run in `run`, and in `files` the rest of what is read: weights in four formats, data, a spec."""
    path = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTDISTILL_PLUGINS", "")
        list(rd.train(SPEC, out=path / "run"))
        done = command("eval", path / "run", *QUICK, "--checks", "8")
        assert done.code == 0, done.err
    files = path / "files"
    files.mkdir()
    write_batches(files / "cifar-10-batches-py")
    write_parquet(files / "parquet" / "train-00000-of-00001.parquet", TRAIN)
    write_parquet(files / "parquet" / "test-00000-of-00001.parquet", TEST)
    save_weights(files / "safe.safetensors", net())
    torch.save(net(), files / "zip.pt")
    torch.save(net(), files / "old.pt", _use_new_zipfile_serialization=False)
    (files / "plain.pkl").write_bytes(pickle.dumps({"state_dict": {"a": np.ones(3)}}))
    (files / "spec.toml").write_text("method = 'sat'\nepochs = 3\n")
    (files / "loop.py").write_text("def epoch(*_, **__):\n    yield\n")
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cli(*args: str) -> Callable[[], Told]:
    def call() -> Told:
        done = command(*args)
        return done.code, done.err

    return call


def python(fn: Callable[[], object]) -> Told:
    try:
        fn()
    except RobustDistillError as error:
        return error.exit_code, str(error)
    return 0, ""


def shards() -> Told:
    return python(lambda: cifar10(Path("files/parquet")))


def batches() -> Told:
    return python(lambda: cifar10(Path("files/cifar-10-batches-py")))


EVAL = cli("eval", "run", *QUICK, "--checks", "0")
RESUME = cli("train", "--resume", "run")
COMPARE, REPORT = cli("compare", "run"), cli("report", "run")
TEXT = [*BYTES]
BINARY = ["flipped", "cut", "empty", "page", "program", "zeros"]
ODD = ["folder", "pipe"]


@dataclass(frozen=True)
class Kind:
    """A file, the command that reads it, the faults, and what that says: `code` and `words` unless `but` says else."""

    path: str
    reads: Callable[[], Told]
    faults: list[str]
    words: str
    code: int = 4
    but: dict[str, Told] = field(default_factory=dict)


BEST = "run/checkpoints/epoch-000{}"
MISSING: dict[str, Told] = {"missing": (4, "is missing")}
NO_JSON = "is missing or not a JSON object"
FLIPPED: dict[str, Told] = {"flipped": (4, "result.json")}
FOLDER: dict[str, Told] = {"folder": (2, "is a directory"), "pipe": (2, "it is no regular file")}
WEIGHTS: dict[str, Told] = {
    "empty": (4, "is empty"),
    "page": (4, "is a web page, not weights"),
    "program": (4, "was refused and nothing in it was executed"),
    "missing": (2, "no such file"),
    **FOLDER,
}
JUDGED = WEIGHTS | {"folder": (2, "is not a run directory")}
EVERYTHING = [*TEXT, *ODD, "missing"]
KINDS = {
    "a run's spec": Kind("run/spec.toml", EVAL, [*TEXT], "run/spec.toml is not readable TOML", but={
        "flipped": (4, "run/spec.toml is no"), "cut": (4, "run/spec.toml is no"), "empty": (4, "is no whole spec"),
        "missing": (2, "is not a run directory"), "folder": (2, "is not a run directory"),
    }),
    "environment": Kind("run/environment.json", RESUME, EVERYTHING, NO_JSON, but={"flipped": (4, "environment.json")}),
    "environment, when a student is judged": Kind(
        "run/environment.json", EVAL, [*TEXT, *ODD], NO_JSON, but={"flipped": (4, "environment.json")}
    ),
    "event log, resumed": Kind("run/events.jsonl", RESUME, BINARY, "is not as this run wrote it", 0),
    "event log, reported": Kind("run/events.jsonl", REPORT, [*TEXT], "events.jsonl is not a JSON object", but={
        "flipped": (4, "events.jsonl"), "cut": (4, "events.jsonl was altered"),
        "empty": (4, "events.jsonl was altered"), "program": (4, "events.jsonl"),
        "zeros": (4, "events.jsonl was altered"),
    }),
    "result, compared": Kind("run/result.json", COMPARE, [*TEXT, *ODD], NO_JSON, but=FLIPPED),
    "result, reported": Kind("run/result.json", REPORT, [*TEXT, *ODD], NO_JSON, but=FLIPPED),
    "verdicts, compared": Kind(
        "run/evaluation.json", COMPARE, [*TEXT, *ODD], NO_JSON, but={"flipped": (4, "its own digest")}
    ),
    "verdicts, reported": Kind(
        "run/evaluation.json", REPORT, [*TEXT, *ODD], NO_JSON, but={"flipped": (4, "its own digest")}
    ),
    "images for the eye": Kind(
        "run/examples.safetensors", REPORT, [*BINARY, *ODD], "examples.safetensors holds no example images"
    ),
    "lock": Kind("run/lock", RESUME, [*TEXT, *ODD], "its lock does not say by whom", 2),
    "pointer to the best": Kind("run/checkpoints/best", EVAL, [*TEXT], "best does not hold a checkpoint's name", but={
        "cut": (2, "There is no checkpoint"),
    }),
    "pointer to the latest": Kind(
        "run/checkpoints/latest", RESUME, [*TEXT], "latest does not hold a checkpoint's name", 0,
        but={"cut": (0, "There is no checkpoint")},
    ),
    "manifest": Kind("{best}/manifest.json", EVAL, [*TEXT], "manifest.json is not JSON", but={
        "flipped": (4, "manifest.json"), "folder": (4, "is missing"), "pipe": (4, "is missing"),
    }),
    "student": Kind("{best}/student.safetensors", EVAL, [*BINARY, *ODD, "missing"], "student.safetensors has", but={
        "flipped": (4, "student.safetensors was altered"), "zeros": (4, "student.safetensors was altered"), **MISSING,
        "folder": (4, "student.safetensors is no file"), "pipe": (4, "student.safetensors is no file"),
    }),
    "average": Kind("{best}/average.safetensors", EVAL, [*BINARY, *ODD, "missing"], "average.safetensors has", but={
        "flipped": (4, "average.safetensors was altered"), "zeros": (4, "average.safetensors was altered"), **MISSING,
        "folder": (4, "average.safetensors is no file"), "pipe": (4, "average.safetensors is no file"),
    }),
    "state, resumed from another": Kind("{latest}/state.pt", RESUME, [*BINARY, *ODD, "missing"], "state.pt", 0),
    "state, resumed from": Kind(
        "{latest}/state.pt", lambda: cli("train", "--resume", str(newest()))(), [*BINARY, *ODD, "missing"], "state.pt"
    ),
    "weights, safetensors": Kind(
        "files/safe.safetensors", cli("eval", "files/safe.safetensors"), [*BINARY[1:], *ODD, "missing"],
        "is truncated or garbled", but=JUDGED,
    ),
    "weights, torch's archive": Kind(
        "files/zip.pt", cli("eval", "files/zip.pt"), [*BINARY, *ODD, "missing"], "is truncated or garbled",
        but=JUDGED | {"flipped": (4, "does not match its checksum")},
    ),
    "weights, torch's old format": Kind(
        "files/old.pt", cli("eval", "files/old.pt"), [*BINARY[1:], *ODD, "missing"], "is truncated or garbled",
        but=JUDGED,
    ),
    "weights, a plain pickle": Kind(
        "files/plain.pkl", cli("eval", "files/plain.pkl"), [*BINARY[1:], *ODD, "missing"],
        "is truncated or garbled", but=JUDGED | {"missing": (2, "plain.pkl"), "cut": (4, "nothing in it was executed")},
    ),
    "weights, as a teacher": Kind(
        "files/zip.pt", cli("train", "--teacher", "files/zip.pt"), [*BINARY, *ODD, "missing"],
        "is truncated or garbled", but=WEIGHTS | {"flipped": (4, "does not match its checksum")},
    ),
    "weights, imported": Kind(
        "files/zip.pt", cli("import-teacher", "files/zip.pt"), [*BINARY, *ODD, "missing"],
        "is truncated or garbled", but=WEIGHTS | {"flipped": (4, "does not match its checksum")},
    ),
    "spec": Kind(
        "files/spec.toml", cli("train", "-c", "files/spec.toml", "--print-spec"), [*TEXT[2:], "folder", "missing"],
        "files/spec.toml is not readable TOML",
        but={"empty": (0, ""), "folder": (2, "is a folder"), "missing": (2, "there is no spec file")},
    ),
    "baseline": Kind(
        "files/loop.py", cli("bench", "--baseline", "files/loop.py", "--seconds", "0"),
        ["empty", "page", "not UTF-8", "folder", "missing"], "loop.py cannot be run as Python", 2,
        but={"empty": (2, "has no function `epoch`"), "folder": (2, "there is no file"),
             "missing": (2, "there is no file")},
    ),
    "images, parquet": Kind(
        "files/parquet/train-00000-of-00001.parquet", shards, [*BINARY, *ODD, "missing"],
        "train-00000-of-00001.parquet", but={"missing": (2, "holds no CIFAR-10")},
    ),
    "images, torchvision's batches": Kind(
        "files/cifar-10-batches-py/data_batch_2", batches, [*BINARY[1:], *ODD, "missing"], "data_batch_2",
        but={"program": (4, "nothing of it was run"), "missing": (2, "lacks data_batch_2"),
             "folder": (2, "lacks data_batch_2"), "pipe": (2, "lacks data_batch_2")},
    ),
}  # fmt: skip
CASES = [(name, fault) for name, kind in KINDS.items() for fault in kind.faults]


def newest() -> Path:
    root = Path("run/checkpoints")
    return root / str(checkpoint.noted(root, "latest"))


def place(path: str) -> Path:
    """A kind's path, with the best and the latest checkpoint's folder filled in."""
    root = Path("run/checkpoints")
    return Path(path.format(best=root / str(checkpoint.noted(root, "best")), latest=newest()))


@pytest.mark.parametrize("name, fault", CASES)
def test_a_fault_is_a_sentence_and_nothing_runs(home: Path, here: Path, name: str, fault: str) -> None:
    kind = KINDS[name]
    copied(home / "run", here / "run") if "run" in str(kind.path) or "{" in kind.path else None
    copied(home / "files", here / "files") if kind.path.startswith("files") else None
    path = place(kind.path) if "{" in kind.path else Path(kind.path)
    if kind.path == "run/lock":
        path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "born": "", "since": "now"}))
    spoil(path, fault)
    code, words = kind.but.get(fault, (kind.code, kind.words))
    found, told = kind.reads()
    assert found == code, told
    assert words in told
    assert "internal error" not in told
    assert not Path(CANARY).exists()


def test_the_planted_program_would_run(here: Path) -> None:
    pickle.loads(BYTES["program"](b""))
    assert Path(CANARY).exists()


def test_the_page_quotes_the_size_of_this_table() -> None:
    page = (Path(__file__).parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert f"{len(CASES)} faults of {len(KINDS)} kinds of files" in " ".join(page.split())
    assert {fault for kind in KINDS.values() for fault in kind.faults} == set(FAULTS)


# ---- what results rest on -----------------------------------------------------------------------------------
def test_a_spec_that_is_not_the_runs_own_is_refused_but_for_where_it_runs(home: Path, here: Path) -> None:
    run = copied(home / "run", here / "run")
    spec = (run / "spec.toml").read_text()
    (run / "spec.toml").write_text(spec.replace('device = "cpu"', 'device = "auto"').replace("save_minutes = 10.0", ""))
    rd.load(run)
    (run / "spec.toml").write_text(spec.replace("eps = 0.2", "eps = 0.3"))
    for reads in (lambda: rd.load(run), lambda: list(rd.resume(run)), lambda: list(rd.evaluate(run))):
        code, told = python(reads)
        assert (code, "is not the spec that this run began with" in told) == (4, True)
    assert COMPARE()[0] == REPORT()[0] == 4
    environment = json.loads((run / "environment.json").read_text())
    environment["packages"]["robustdistill"] = "0.0.1"  # whose hashes may be of something else
    (run / "environment.json").write_text(sealed.spelt({k: v for k, v in environment.items() if k != "digest"}))
    with pytest.raises(DamagedFile, match="was saved by a run of another spec"):
        rd.load(run)


def test_records_without_a_digest_are_read_as_before(home: Path, here: Path) -> None:
    run = copied(home / "run", here / "run")
    for name in ("environment.json", "result.json", "evaluation.json"):
        content = json.loads((run / name).read_text())
        del content["digest"]
        (run / name).write_text(json.dumps(content))
    assert [EVAL()[0], COMPARE()[0], REPORT()[0]] == [0, 0, 0]


def test_a_checkpoint_of_another_run_is_refused(home: Path, here: Path) -> None:
    run = copied(home / "run", here / "run")
    list(rd.train(SPEC | {"seed": 1}, out=here / "other"))
    shutil.rmtree(newest())
    copied(here / "other" / "checkpoints" / newest().name, newest())
    for reads in (lambda: rd.load(run, "latest"), lambda: list(rd.resume(newest()))):
        code, told = python(reads)
        assert (code, "was saved by a run of another spec" in told) == (4, True)


def test_a_pointer_to_another_epoch_than_the_best_is_refused(home: Path, here: Path) -> None:
    run = copied(home / "run", here / "run")
    other = ({"epoch-0001", "epoch-0002"} - {str(checkpoint.noted(run / "checkpoints", "best"))}).pop()
    (run / "checkpoints" / "best").write_text(other + "\n")
    with pytest.raises(DamagedFile, match=r"checkpoints/best names epoch-000\d, but the best epoch in result"):
        rd.load(run)
    rd.load(run, other)


def test_any_flipped_byte_of_a_record_is_noticed_or_changes_nothing(home: Path, here: Path) -> None:
    run = rundir.RunDir(copied(home / "run", here / "run"))
    for name, read in (("result.json", run.read_result), ("environment.json", run.read_environment)):
        content, known, passed = (run.path / name).read_bytes(), read(), 0
        for at in range(0, len(content), 7):
            (run.path / name).write_bytes(flip(content, at, at % 8))
            try:
                found = read()
            except DamagedFile:
                continue
            passed += 1
            assert {k: v for k, v in found.items() if k in known} == known
        assert passed <= len('"digest"')  # without the word, it is a file as older versions wrote it
        (run.path / name).write_bytes(content)


def test_what_a_record_lacks_or_holds_instead_is_named(home: Path, here: Path) -> None:
    run = copied(home / "run", here / "run")
    wrong: list[tuple[str, Callable[[Any], object], str]] = [
        ("result.json", lambda c: c.pop("best"), "at best"),
        ("result.json", lambda c: c["last"]["test"].update(clean="high"), "at last.test.clean"),
        ("result.json", lambda c: c["best"].update(epoch=-1), "at best.epoch"),
        ("evaluation.json", lambda c: c.pop("verdicts"), "at verdicts"),
        ("evaluation.json", lambda c: c["verdicts"][1].update(accuracy=2), "at verdicts.1.accuracy"),
        ("evaluation.json", lambda c: c["verdicts"][0].update(interval95=[0]), "at verdicts.0.interval95"),
        ("evaluation.json", lambda c: c["curves"][0].update(steps=None), "at curves.0.steps"),
    ]
    for name, change, words in wrong:
        good = (run / name).read_bytes()
        content = json.loads(good)
        del content["digest"]
        change(content)
        (run / name).write_text(sealed.spelt(content))
        code, told = REPORT()
        assert (code, f"run/{name} does not hold what it should {words}" in told) == (4, True), told
        (run / name).write_bytes(good)
    log = (run / "events.jsonl").read_text()
    (run / "events.jsonl").write_text(log.replace('"split": "holdout"', '"split": 3', 1))
    assert "events.jsonl does not hold what it should at " in REPORT()[1]
    (run / "events.jsonl").unlink()
    assert REPORT()[0] == 0


def test_images_of_another_evaluation_are_refused(home: Path, here: Path) -> None:
    run = copied(home / "run", here / "run")
    path = run / "examples.safetensors"
    path.write_bytes(flip(path.read_bytes(), -20))
    code, told = REPORT()
    assert (code, "its SHA-256 is not that in evaluation.json" in told) == (4, True)


# ---- caches: never trusted ----------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", [f for f in FAULTS if f != "missing"])
def test_damaged_caches_are_made_anew(here: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here))
    write_parquet(here / "train-00000-of-00001.parquet", TRAIN)
    write_parquet(here / "test-00000-of-00001.parquet", TEST)
    cifar10(here)
    spoil(here / "robustdistill" / "cifar10.npz", fault)
    assert_tiny(cifar10(here))
    parts = Partial(here / "parts")
    parts.put("a", {"correct": torch.arange(64)})
    spoil(here / "parts" / "a.part", fault)
    assert parts.get("a") is None
    assert not Path(CANARY).exists()


def test_a_cache_of_objects_or_of_other_kinds_is_not_used(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here))
    write_parquet(here / "train-00000-of-00001.parquet", TRAIN)
    write_parquet(here / "test-00000-of-00001.parquet", TEST)
    cifar10(here)
    path = here / "robustdistill" / "cifar10.npz"
    with np.load(path) as stored:
        good = dict(stored)
    for wrong in (np.array([Program()], dtype=object), np.zeros((40, 3, 32, 32)), np.zeros((3, 3, 32, 32), np.uint8)):
        np.savez(path, **{**good, "train_images": wrong})  # type: ignore[arg-type]
        assert_tiny(cifar10(here))
    assert not Path(CANARY).exists()


def test_any_flipped_byte_of_the_digits_is_noticed_or_changes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(str(rd.__path__[0])) / "data" / "digits.npz"
    content, known = source.read_bytes(), digits()
    monkeypatch.setattr("robustdistill.data.sources.files", lambda _: here)
    refused = 0
    for at in (*range(60), *range(60, len(content), len(content) // 150)):
        (here / "digits.npz").write_bytes(flip(content, at, at % 8))
        try:
            assert torch.equal(digits().train.images, known.train.images)
        except DamagedFile as error:
            refused += 1
            assert "digits.npz of robustdistill itself is damaged" in str(error)  # noqa: PT017
    assert refused > 150


# ---- paths that lead elsewhere ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["../../canary", "/etc/hostname", "student.safetensors/../x"])
def test_a_manifest_may_not_name_files_elsewhere(home: Path, here: Path, name: str) -> None:
    run = copied(home / "run", here / "run")
    manifest = newest() / "manifest.json"
    body = json.loads(manifest.read_text())
    body["files"][name] = {"size": 1, "sha256": "0" * 64}
    manifest.write_text(sealed.spelt({k: v for k, v in body.items() if k != "digest"}))
    assert python(lambda: rd.load(run, "latest"))[0] == 0  # the other one is whole
    with pytest.raises(DamagedFile, match="is missing"):
        checkpoint.load(newest())


@pytest.mark.parametrize("name", ["../other", "/tmp", "..", "a/b", ".hidden"])
def test_a_pointer_may_not_lead_elsewhere(home: Path, here: Path, name: str) -> None:
    run = copied(home / "run", here / "run")
    (run / "checkpoints" / "best").write_text(name + "\n")
    with pytest.raises(DamagedFile, match="does not hold a checkpoint's name"):
        rd.load(run)


def test_a_path_in_parquet_is_not_opened(here: Path) -> None:
    (here / "canary.png").write_bytes(encoded(TRAIN[0]))
    folder = here / "a" / "b"
    write_parquet(folder / "test-00000-of-00001.parquet", TEST)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for data in (None, b""):
        rows = pa.array([{"bytes": data, "path": "../../canary.png"}], kind)
        pq.write_table(pa.table({"img": rows, "label": [0]}), folder / "train-00000-of-00001.parquet")
        with pytest.raises(DamagedFile, match=r"row 0 of .* holds no whole PNG or JPEG image"):
            cifar10(folder)


def test_an_archive_of_another_md5_is_not_unpacked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import utils

    def retrieve(_: str, target: str) -> None:
        with tarfile.open(target, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("../" + CANARY))

    monkeypatch.setenv("XDG_CACHE_HOME", str(here))
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(utils, "_urlretrieve", retrieve)
    with pytest.raises(RuntimeError, match="corrupted"):
        download._from_archive(download.CIFAR10, "no hub")
    assert [p.name for p in here.rglob("*") if p.name == CANARY or p.is_file()] == []


def test_a_lock_or_a_leftover_may_be_anything(home: Path, here: Path) -> None:
    run = copied(home / "run", here / "run")
    (run / "checkpoints" / f".tmp-epoch-{10**19}").mkdir()
    (run / "lock").symlink_to(here / "nowhere")
    assert RESUME()[0] == 2
    for pid in (-1, 0, 10**40, "1", None, True):
        (run / "lock").unlink()
        (run / "lock").write_text(json.dumps({"pid": pid, "host": "", "born": "", "since": ""}))
        assert "does not say by whom" in RESUME()[1] or pid == 10**40
    (run / "lock").unlink(missing_ok=True)
    (here / "runs" / "a").mkdir(parents=True)
    (here / "runs" / "a" / "spec.toml").symlink_to(here / "nowhere")
    assert "There is no run in runs" in command("eval").err


# ---- code by other ways than a pickle -----------------------------------------------------------------------
@pytest.mark.parametrize(
    "student",
    [
        {"name": "os:mkdir", "path": CANARY},
        {"name": "os.path:os.mkdir", "path": CANARY},
        {"name": "subprocess:getoutput", "cmd": f"mkdir {CANARY}"},
        {"name": "builtins:exec", "source": f"import os; os.mkdir('{CANARY}')"},
        {"name": "torch.hub:load", "repo_or_dir": ".", "model": "m", "source": "local"},
        {"name": "torch:load", "f": "state.pt", "weights_only": False},
    ],
)
def test_a_strangers_spec_cannot_call_anything(home: Path, here: Path, student: dict[str, Any]) -> None:
    (here / "hubconf.py").write_text(f"import os\nos.mkdir('{CANARY}')\n")
    torch.save({"a": Program()}, "state.pt")
    with pytest.raises(UserError, match=r"is part of Python|it may be any function"):
        list(rd.train(SPEC | {"student": student}))
    assert not Path(CANARY).exists()


def test_networks_of_ones_own_are_still_built(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from torch import nn\n"
    code += "def flat(num_classes, hidden): return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    code += "class Net(nn.Sequential):\n  def __init__(s, n): super().__init__(nn.Flatten(), nn.Linear(64, n))\n"
    code += "def bare(): return Net(10)\n"
    (here / "own_networks.py").write_text(code)
    monkeypatch.syspath_prepend(str(here))
    for name, params in (("flat", {"hidden": 3}), ("Net", {"n": 10}), ("bare", {})):
        list(rd.train(SPEC | {"student": {"name": f"own_networks:{name}", **params}, "epochs": 1}, out=here / name))
        rd.load(here / name)


def test_a_folder_of_timms_runs_nothing(here: Path) -> None:
    folder = here / "net"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 10}))
    torch.save({"a": Program()}, folder / "pytorch_model.bin")
    assert command("eval", f"local-dir:{folder}", "--data", "digits").code == 4
    for config in ("[]", "{", '{"architecture": 3}', '{"architecture": "test_resnet", "model_args": {"a": 1}}'):
        (folder / "config.json").write_text(config)
        assert command("eval", f"local-dir:{folder}", "--data", "digits").code == 2
    assert not Path(CANARY).exists()


def test_what_is_set_in_a_named_object_hides_nothing() -> None:
    program = b"\x80\x04cos\nenviron\n(\x8c\x01a\x8c\x01bucos\nsystem\n."
    assert pickled.named(io.BytesIO(program)) == ["os.environ", "os.system"]


def test_names_in_a_file_cannot_move_the_cursor(here: Path) -> None:
    save_file({"\x1b[2J" + "x" * 500: torch.ones(1)}, here / "w.safetensors")
    told = command("eval", "w.safetensors").err
    assert "?[2Jx" in told
    assert "\x1b" not in told
    assert len(told) < 1000


# ---- small files that would fill the memory -----------------------------------------------------------------
def archive_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data/0", "w") as entry:
        for _ in range(300):
            entry.write(bytes(2**20))


def stretched(path: Path) -> None:
    torch.save({"a.weight": torch.zeros(1).expand(2**36)}, path)


def circle(path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["state_dict"] = endless
    torch.save(endless, path)


def header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**60) + b'{"a": 1}')


def claims(path: Path) -> None:
    about = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    path.write_bytes(struct.pack("<Q", len(about)) + about)


def odd(kind: Callable[[], Tensor]) -> Callable[[Path], None]:
    return lambda path: torch.save({"a.weight": kind()}, path)


BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "an archive that unfolds": (archive_bomb, "would unfold to 0.315 GB"),
    "strides of 0": (stretched, "would unfold to 275 GB"),
    "a dict that holds itself": (circle, "holds no weights"),
    "a header of 2**60 bytes": (header, "is truncated or garbled"),
    "a tensor of 4 TB": (claims, "is truncated or garbled"),
    "a sparse tensor": (odd(lambda: torch.eye(3).to_sparse()), "no dense tensor of real numbers"),
    "a tensor without values": (odd(lambda: torch.empty(2**40, device="meta")), "no dense tensor of real numbers"),
    "complex numbers": (odd(lambda: torch.ones(2, dtype=torch.complex64)), "no dense tensor of real numbers"),
}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("name", BOMBS)
def test_small_weights_that_would_fill_the_memory(here: Path, name: str) -> None:
    make, words = BOMBS[name]
    make(here / "w.pt")
    assert (here / "w.pt").stat().st_size < 2**19
    before, began = peak(), time.monotonic()
    with pytest.raises(DamagedFile, match=words) as caught:
        read_weights(here / "w.pt")
    assert not isinstance(caught.value, UnsafeFile)
    assert peak() - before < 2**27
    assert time.monotonic() - began < 5


def laughs(depth: int = 40) -> list[Any]:
    inside: list[Any] = [0]
    for _ in range(depth):
        inside = [inside] * 10
    return inside


PROGRAMS = {
    "a memo of 2**30": b"\x80\x02]r" + struct.pack("<I", 2**30) + b".",
    "text of 2**40 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"a.",
    "labels that hold each other": pickle.dumps({**batch(TEST), "labels": [laughs()]}, 4),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_small_batches_that_would_fill_the_memory(here: Path, name: str) -> None:
    write_batches(here / "cifar-10-batches-py")
    (here / "cifar-10-batches-py" / "test_batch").write_bytes(PROGRAMS[name])
    before = peak()
    with pytest.raises(DamagedFile, match="test_batch") as caught:
        cifar10(here)
    assert len(str(caught.value)) < 1000
    assert peak() - before < 2**27


def test_parquet_of_more_rows_than_bytes(here: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.nulls(10**6, kind)
    for name in ("train", "test"):
        path = here / f"{name}-00000-of-00001.parquet"
        pq.write_table(pa.table({"img": rows, "label": pa.nulls(10**6, pa.int64())}), path)
    with pytest.raises(DamagedFile, match="it claims 1,000,000 rows, more than it has bytes"):
        cifar10(here)


def test_shapes_that_no_network_has_are_not_recognised(here: Path) -> None:
    shapes: Iterator[dict[str, Tensor]] = iter(
        [
            {"block1.layer.0.conv1.weight": torch.tensor(1.0)},
            {"stage1.conv.weight": torch.ones(0, 0, 0, 0), "linear.weight": torch.ones(0, 0)},
            {"stage1.conv.weight": torch.ones(2**20, 0, 3, 3), "linear.weight": torch.ones(0, 2**20)},
            {"layer.0.block.0.conv_0.weight": torch.ones(16), "init_conv.weight": torch.ones(1, 0, 1, 1)},
        ]
    )
    for weights in shapes:
        save_file(weights, here / "w.safetensors")
        assert command("eval", "w.safetensors").code == 2


def test_a_forged_checkpoint_that_fits_nothing(home: Path, here: Path) -> None:
    copied(home / "run", here / "run")
    torch.save({"epoch": 1}, newest() / "state.pt")
    forge(newest())
    with pytest.raises(DamagedFile, match="does not hold the state of this run"):
        list(rd.resume(newest()))
    for name in ("student", "average"):
        save_file({"a": torch.ones(1)}, newest() / f"{name}.safetensors")
    forge(newest())
    with pytest.raises(UserError, match="do not fit student 'digits-net'"):
        rd.load(newest())
    forge(newest(), meta={})
    with pytest.raises(DamagedFile, match="does not say which weights were judged"):
        rd.load(newest())
    forge(newest(), files={})
    with pytest.raises(DamagedFile, match="does not belong to the checkpoint"):
        rd.load(newest())
