"""SVHN and Tiny-ImageNet by name: the hub's files as they are laid out there, few and small; what may be wrong."""

import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import robustdistill as rd
from hub import COMMIT
from robustdistill.builtin.datasets import SVHN as SVHN_RECORD
from robustdistill.builtin.datasets import TINY_IMAGENET as TINY_RECORD
from robustdistill.cli import main
from robustdistill.data.cutting import cut
from robustdistill.data.origins import SVHN, TINY_IMAGENET, Origin
from robustdistill.data.sources import svhn, tiny_imagenet
from robustdistill.errors import DamagedFile, UserError
from robustdistill.events import Finished
from robustdistill.registry import default_registry
from robustdistill.types import Splits

RNG = np.random.default_rng(0)
Load = Callable[[Path | None], Splits]
EACH = [(svhn, SVHN, 32), (tiny_imagenet, TINY_IMAGENET, 64)]


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels(size: int, channels: int = 3) -> Any:
    return RNG.integers(0, 256, (size, size, channels) if channels > 1 else (size, size), dtype=np.uint8)


def encoded(image: Any, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def write(path: Path, images: list[bytes], labels: list[Any], names: list[str] | None = None) -> None:
    """Rows as the hub has them: image {bytes, path} and label, and the names of the classes in the file's metadata."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([{"bytes": i, "path": None} for i in images], kind), "label": labels})
    if names:
        told = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(told).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def laid_out(root: Path, origin: Origin, size: int, a_class: int = 3) -> tuple[list[Any], list[Any]]:
    """The two files where the repository has them, `a_class` images of each class to learn from and one to test."""
    names = [f"n{i:08}" for i in range(origin.classes)]
    made: list[list[Any]] = []
    for file, n in zip(origin.files, (a_class * origin.classes, origin.classes), strict=True):
        made.append([pixels(size) for _ in range(n)])
        write(root / file, [encoded(i) for i in made[-1]], [i % origin.classes for i in range(n)], names)
    return made[0], made[1]


def rows(*splits: Any) -> list[tuple[bytes, int]]:
    return sorted((x.numpy().tobytes(), int(y)) for s in splits for x, y in zip(s.images, s.labels, strict=True))


def chw(images: list[Any], classes: int) -> list[tuple[bytes, int]]:
    return sorted((np.ascontiguousarray(x.transpose(2, 0, 1)).tobytes(), i % classes) for i, x in enumerate(images))


# ---- what is read -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("at", ["repository", "data", "."])
@pytest.mark.parametrize(("load", "origin", "size"), EACH)
def test_the_hubs_files_are_read_and_one_in_25_is_held_out(
    load: Load, origin: Origin, size: int, at: str, tmp_path: Path
) -> None:
    train, test = laid_out(tmp_path / "d", origin, size)
    if at != "repository":
        (tmp_path / "d" / at).mkdir(exist_ok=True)
        for file in origin.files:
            (tmp_path / "d" / file).rename(tmp_path / "d" / at / Path(file).name)
    splits = load(tmp_path / "d")
    assert splits.train.images.shape == (2 * origin.classes, 3, size, size)
    assert torch.bincount(splits.holdout.labels).tolist() == [1] * origin.classes
    assert rows(splits.train, splits.holdout) == chw(train, origin.classes)
    assert np.array_equal(splits.test.images, np.stack(test).transpose(0, 3, 1, 2))
    assert rows(load(tmp_path / "d").holdout) == rows(splits.holdout)


def test_the_cuts_are_the_ones_on_record() -> None:
    """SVHN's classes have so many images; of Tiny-ImageNet's 200 each has 500."""
    digits = [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659]
    for record, origin, counts in ((SVHN_RECORD, SVHN, digits), (TINY_RECORD, TINY_IMAGENET, [500] * 200)):
        assert (sum(counts), len(record.classes)) == (origin.rows[0], origin.classes)
        parts = cut(np.repeat(np.arange(len(counts)), counts), test=False)
        assert record.downloads == (len(parts["train"]), len(parts["holdout"]), origin.rows[1])
    assert (SVHN_RECORD.augment.flip, TINY_RECORD.augment.flip) == (False, True)


def test_grey_photographs_become_colour_ones(tmp_path: Path) -> None:
    laid_out(tmp_path, TINY_IMAGENET, 64, a_class=2)
    grey, images = pixels(64, 1), [encoded(pixels(64), "JPEG") for _ in range(199)]
    write(tmp_path / TINY_IMAGENET.files[1], [encoded(grey), *images], list(range(200)))
    assert torch.equal(tiny_imagenet(tmp_path).test.images[0], torch.from_numpy(grey).expand(3, 64, 64))


def test_classes_are_called_as_the_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = default_registry()
    laid_out(tmp_path, TINY_IMAGENET, 64, a_class=2)
    assert registry.class_names("tiny-imagenet", tmp_path)[::199] == ("n00000000", "n00000199")
    assert registry.class_names("tiny-imagenet")[::199] == ("0", "199")
    assert registry.class_names("tiny-imagenet", tmp_path / "none") == TINY_RECORD.classes
    write(tmp_path / TINY_IMAGENET.files[0], [encoded(pixels(64))], [0], ["just", "two"])
    assert registry.class_names("tiny-imagenet", tmp_path) == TINY_RECORD.classes
    (tmp_path / TINY_IMAGENET.files[0]).write_bytes(b"no parquet")
    assert registry.class_names("tiny-imagenet", tmp_path) == TINY_RECORD.classes


def test_a_run_by_name(tmp_path: Path) -> None:
    laid_out(tmp_path / "d", SVHN, 32)
    spec = {
        "method": "sat",
        "data": {"name": "svhn", "dir": str(tmp_path / "d")},
        "student": {"name": "digits-net", "width": 4},
        "epochs": 1,
        "limit_batches": 2,
        "batch_size": 8,
        "device": "cpu",
        "select": {"n": 8},
        "attack": {"steps": 1},
    }
    assert isinstance(list(rd.train(spec, out=tmp_path / "run"))[-1], Finished)


@pytest.mark.slow
def test_a_dry_run_knows_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    for name, told in (("svhn", "70,332 train, 2,925 holdout, 26,032 test"), ("tiny-imagenet", "96,000 train")):
        with pytest.raises(SystemExit) as ended:
            main(["train", "--method", "sat", "--data", name, "--dry-run", "--device", "cpu"])
        assert ended.value.code == 0
        assert f"{name}: {told}" in capsys.readouterr().out


def listed(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["list", "datasets", *more])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_list_datasets_shows_figures_sizes_and_what_is_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = listed(capsys)
    assert re.search(r"^svhn +3 x 32 x 32 +no +10 +70,332 +2,925 +26,032 +8/255 +183$", out, re.M)
    assert re.search(r"^digits +1 x 8 x 8 +yes +10 +1,257 +180 +360 +0\.2 +0\.0\d$", out, re.M)
    assert re.search(r"^npz:{path} +(- +){7}-$", out, re.M)
    assert "\nnpz:{path}: a NumPy archive" in out
    snapshot = tmp_path / "datasets--zh-plus--tiny-imagenet" / "snapshots" / COMMIT
    laid_out(snapshot, TINY_IMAGENET, 64, a_class=1)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (record,) = map(json.loads, listed(capsys, "tiny-*", "--json").splitlines())
    size = sum(file.stat().st_size for file in snapshot.rglob("*.parquet"))
    assert {k: record[k] for k in ("here", "size", "download", "image", "classes", "teacher", "images")} == {
        "here": str(snapshot / "data"),
        "size": size,
        "download": 161_000_000,
        "image": [3, 64, 64],
        "classes": 200,
        "teacher": None,
        "images": {"train": 96_000, "holdout": 4_000, "test": 10_000},
    }
    out = listed(capsys, "tiny-*")
    assert re.search(rf"^tiny-imagenet +3 x 64 x 64 +yes .* {size / 1e6:.2f}$", out, re.M)
    assert f"\ntiny-imagenet: {snapshot / 'data'}\n" in out


def test_a_cache_that_holds_something_else_is_not_taken_for_a_data_set(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "cache" / "robustdistill" / "cifar-10-batches-py").mkdir(parents=True)
    (record,) = map(json.loads, listed(capsys, "cifar10", "--json").splitlines())
    assert (record["here"], record["size"]) == (None, None)
    (tmp_path / "cache" / "robustdistill" / "cifar-10-batches-py" / "test_batch").touch()  # and no other
    (record,) = map(json.loads, listed(capsys, "cifar10", "--json").splitlines())
    assert record["here"] is None


# ---- what is wrong with them --------------------------------------------------------------------------------
@pytest.mark.parametrize(("load", "origin", "size"), EACH)
def test_images_and_labels_of_another_kind(load: Load, origin: Origin, size: int, tmp_path: Path) -> None:
    laid_out(tmp_path, origin, size, a_class=2)
    good, last = [encoded(pixels(size)) for _ in range(20)], origin.classes
    file = tmp_path / origin.files[1]
    write(file, [*good, encoded(pixels(size + 1))], [i % 10 for i in range(21)])
    with pytest.raises(
        DamagedFile, match=rf"row 20 of .* is RGB, {size + 1}x{size + 1} .*RGB, {size}x{size} pixels"
    ) as e:
        load(tmp_path)
    assert str(e.value).endswith(f". Download {origin.title} again, or give another folder of it with --data-dir")
    write(file, good, [*range(19), last])
    with pytest.raises(DamagedFile, match=rf"row \d+ of .* has the label \d+; .* from 0 to {last - 1}$"):
        load(tmp_path)
    write(file, [*good[:19], b"<html>"], [i % 10 for i in range(20)])
    with pytest.raises(DamagedFile, match=r"row 19 of .* is no image that can be read"):
        load(tmp_path)
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(DamagedFile, match="cannot be read as parquet"):
        load(tmp_path)


def test_a_grey_digit_is_refused(tmp_path: Path) -> None:
    laid_out(tmp_path, SVHN, 32, a_class=2)
    write(tmp_path / SVHN.files[1], [encoded(pixels(32, 1))], [0])
    with pytest.raises(DamagedFile, match="is L, 32x32 pixels; the others are RGB, 32x32 pixels"):
        svhn(tmp_path)


@pytest.mark.parametrize(("load", "origin", "size"), EACH)
def test_folders_of_something_else(load: Load, origin: Origin, size: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there is no folder .*none; give the one that holds {origin.title}"):
        load(tmp_path / "none")
    (tmp_path / "train_32x32.mat").touch()
    part = origin.parts[1]
    looked = rf"holds no {origin.title}: looked for train-\*.parquet and {part}-\*.parquet, there and in data/.*"
    with pytest.raises(UserError, match=looked):
        load(tmp_path)
    laid_out(tmp_path, origin, size, a_class=1)
    (tmp_path / origin.files[1]).unlink()  # nothing to test on: no part of the training images takes its place
    with pytest.raises(UserError, match=f"holds no {origin.title}"):
        load(tmp_path)


@pytest.mark.parametrize(("load", "origin", "size"), EACH)
def test_a_file_too_few_is_found(load: Load, origin: Origin, size: int, tmp_path: Path) -> None:
    laid_out(tmp_path, origin, size, a_class=1)
    file = tmp_path / origin.files[0]
    file.rename(file.with_name(file.name.replace("of-00001", "of-00002")))
    with pytest.raises(UserError, match=r"holds 1 of the 2 files train-\*.parquet"):
        load(tmp_path)


def test_decoding_is_announced_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustdistill.data.decoding.MANY", 10)
    laid_out(tmp_path, SVHN, 32, a_class=2)
    with caplog.at_level(logging.WARNING, "robustdistill"):
        svhn(tmp_path)
    assert any("images are decoded, once" in message for message in caplog.messages)
