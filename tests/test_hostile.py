"""Every file that is read, with every fault: a sentence of its own and an exit code, and nothing in it runs.

The table is `KINDS`; docs/reliability.md quotes its size.
"""

import json
import pickle
import re
import shutil
import tarfile
from collections.abc import Callable
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
from kinds import CASES, COMPARE, EVAL, KINDS, QUICK, REPORT, RESUME, SPEC, newest, python
from robustdistill.builtin.models import digits_net
from robustdistill.data import download, origins
from robustdistill.data.sources import cifar10, digits
from robustdistill.errors import DamagedFile, UserError
from robustdistill.store import checkpoint, rundir, sealed
from robustdistill.store.partial import Partial
from robustdistill.store.weights import save_weights
from test_checkpoint import forge
from test_cli import rd as command
from test_data import TEST, TRAIN, assert_tiny, encoded, write_batches, write_parquet


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
        ("evaluation.json", lambda c: c.pop("n"), "at n"),  # found by the fuzz test: it left with a KeyError
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
    (run / "events.jsonl").write_text(re.sub(r'"robust": [0-9.]+', '"robust": null', log, count=1))  # found by fuzzing
    code, told = REPORT()
    assert (code, "events.jsonl does not hold what it should at " in told, "robust" in told) == (4, True, True)
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
        download._from_archive("CIFAR-10", origins.CIFAR10.archive, "no hub")
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


# ---- what only looks like a checkpoint ----------------------------------------------------------------------
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
