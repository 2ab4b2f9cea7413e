"""Anybody's images: found, cut, decoded once and mapped; what is wrong with them is said and nothing is lost."""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import robustdistill as rd
from robustdistill.data import cache, decoding, mapped
from robustdistill.errors import DamagedFile, RobustDistillError, UserError
from robustdistill.registry import default_registry
from robustdistill.resolve import resolve
from robustdistill.types import Dataset, Splits
from test_cli import rd as command

RNG = np.random.default_rng(0)
REGISTRY = default_registry()


def pixels(size: int = 8, channels: int = 3) -> Any:
    return RNG.integers(0, 256, (size, size, channels) if channels > 1 else (size, size), dtype=np.uint8)


def png(array: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def tree(root: Path, parts: dict[str, int], *, size: int = 8, channels: int = 3) -> dict[str, list[Any]]:
    """Writes so many images into each folder; their pixels by folder, in the order of the files' names."""
    made: dict[str, list[Any]] = {}
    for name, n in parts.items():
        (root / name).mkdir(parents=True)
        made[name] = [pixels(size, channels) for _ in range(n)]
        for i, image in enumerate(made[name]):
            (root / name / f"{i:03}.png").write_bytes(png(image))
    return made


def opened(name: str, directory: Path | None = None) -> tuple[Dataset, Splits]:
    data = REGISTRY.dataset(name, directory)
    return data, data.load(None)


def held(splits: Splits) -> dict[str, list[tuple[bytes, int]]]:
    return {
        part: sorted((x.numpy().tobytes(), int(y)) for x, y in zip(split.images, split.labels, strict=True))
        for part, split in vars(splits).items()
        if split is not None
    }


def chw(image: Any) -> bytes:
    return np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes() if image.ndim == 3 else image.tobytes()


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "robustdistill" / "images"


# ---- what is found ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_folders_with_a_part_to_test(tmp_path: Path, test: str) -> None:
    made = tree(tmp_path / "d", {"train/cat": 30, "train/ant": 28, f"{test}/ant": 3, f"{test}/cat": 2})
    data, splits = opened(f"imagefolder:{tmp_path / 'd'}")
    assert (data.classes, data.channels, data.size) == (("ant", "cat"), 3, 8)
    assert (data.eps, data.augment.pad, data.augment.flip) == ("8/255", 1, True)
    found = held(splits)
    assert found["test"] == sorted((chw(x), y) for y, c in enumerate(("ant", "cat")) for x in made[f"{test}/{c}"])
    learned = sorted((chw(x), y) for y, c in enumerate(("ant", "cat")) for x in made[f"train/{c}"])
    assert sorted(found["train"] + found["holdout"]) == learned
    assert [y for _, y in found["holdout"]].count(0) == [y for _, y in found["holdout"]].count(1) == 1


def test_folders_alone_are_cut_by_their_places(tmp_path: Path) -> None:
    tree(tmp_path / "d", {"a": 50, "b": 10, "c": 2}, channels=1, size=20)
    data, splits = opened(f"imagefolder:{tmp_path / 'd'}")
    assert (data.classes, data.channels, data.size, data.student) == (("a", "b", "c"), 1, 20, "rn-18")
    assert data.augment.flip is False
    counts = {part: torch.bincount(split.labels, minlength=3).tolist() for part, split in vars(splits).items() if split}
    assert counts == {"test": [10, 2, 1], "holdout": [1, 1, 0], "train": [39, 7, 1]}
    again = opened(f"imagefolder:{tmp_path / 'd'}")[1]
    assert held(again) == held(splits)


def test_a_size_behind_the_path_makes_all_alike(tmp_path: Path) -> None:
    tree(tmp_path / "d", {"a": 6, "b": 6}, size=40)
    Image.fromarray(pixels(30, 1)).resize((60, 30)).save(tmp_path / "d" / "a" / "grey.jpg")
    half = np.zeros((40, 80, 3), np.uint8)
    half[:, 20:60] = 255  # what is left of it when it is cut square out of the middle
    (tmp_path / "d" / "b" / "wide.png").write_bytes(png(half))
    data, splits = opened(f"imagefolder:{tmp_path / 'd'}@16")
    assert (data.channels, data.size, data.student) == (3, 16, "digits-net")
    images = torch.cat([s.images for s in vars(splits).values() if s])
    assert list(images.shape) == [14, 3, 16, 16]
    assert any(float(image.float().mean()) > 250 for image in images)


def features(names: list[str]) -> dict[bytes, bytes]:
    info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    return {b"huggingface": json.dumps(info).encode()}


def shard(path: Path, images: list[bytes | None], labels: list[Any], names: list[str] | None = None) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([{"bytes": i, "path": None} for i in images], kind), "label": labels})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(features(names)) if names else table, path)


@pytest.mark.parametrize("place", [".", "data"])
@pytest.mark.parametrize("names", [["ant", "bee", "cat"], None])
def test_parquet_with_its_classes(tmp_path: Path, place: str, names: list[str] | None) -> None:
    images, labels = [pixels() for _ in range(90)], [i % 3 for i in range(90)]
    for n in (0, 1):
        part = slice(45 * n, 45 * (n + 1))
        file = tmp_path / "d" / place / f"train-0000{n}-of-00002.parquet"
        shard(file, [png(i) for i in images[part]], labels[part], names)
    shard(tmp_path / "d" / place / "validation-00000-of-00001.parquet", [png(images[0])], [2], names)
    data, splits = opened(f"parquet:{tmp_path / 'd'}")
    assert data.classes == tuple(names or "012")
    assert held(splits)["test"] == [(chw(images[0]), 2)]
    assert sorted(held(splits)["train"] + held(splits)["holdout"]) == sorted(
        (chw(x), y) for x, y in zip(images, labels, strict=True)
    )


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_of_generated_images(tmp_path: Path, save: Any) -> None:
    images, labels = np.stack([pixels() for _ in range(60)]), np.arange(60) % 3
    images[:, :4] = 0  # something to compress
    save(tmp_path / "x.npz", image=images, label=labels)
    data, splits = opened(f"npz:{tmp_path / 'x.npz'}")
    assert (data.classes, data.size) == (("0", "1", "2"), 8)
    found = held(splits)
    assert sorted(row for rows in found.values() for row in rows) == sorted(
        (chw(x), int(y)) for x, y in zip(images, labels, strict=True)
    )
    assert {part: len(rows) for part, rows in found.items()} == {"train": 45, "holdout": 3, "test": 12}


# ---- mapped files -------------------------------------------------------------------------------------------
def test_images_are_decoded_once_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> None:
    tree(tmp_path / "d", {"a": 10, "b": 10})
    first = held(opened(f"imagefolder:{tmp_path / 'd'}")[1])
    monkeypatch.setattr(decoding, "decode", lambda *_: pytest.fail("decoded again"))
    splits = opened(f"imagefolder:{tmp_path / 'd'}")[1]
    assert held(splits) == first
    assert [p.name for p in fresh_cache.iterdir()] == [p.name for p in fresh_cache.iterdir() if len(p.name) == 32]


@pytest.mark.parametrize("spoil", ["flip", "cut", "gone", "facts"])
def test_a_damaged_mapping_is_made_anew(tmp_path: Path, fresh_cache: Path, spoil: str) -> None:
    tree(tmp_path / "d", {"a": 10, "b": 10})
    first = held(opened(f"imagefolder:{tmp_path / 'd'}")[1])
    (folder,) = fresh_cache.iterdir()
    file = folder / ("facts.json" if spoil == "facts" else "train.npy")
    content = file.read_bytes()
    changed = {"flip": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], "cut": content[:-9]}
    file.unlink()
    if spoil != "gone":
        file.write_bytes(changed.get(spoil, b"[]"))
    assert held(opened(f"imagefolder:{tmp_path / 'd'}")[1]) == first
    assert len(list(fresh_cache.iterdir())) == 1


def test_other_files_are_decoded_anew(tmp_path: Path) -> None:
    tree(tmp_path / "d", {"a": 10, "b": 10})
    first = held(opened(f"imagefolder:{tmp_path / 'd'}")[1])
    file = tmp_path / "d" / "a" / "003.png"
    file.write_bytes(png(pixels()))
    assert held(opened(f"imagefolder:{tmp_path / 'd'}")[1]) != first


@pytest.mark.skipif(os.geteuid() != 0 and not os.access("/proc", os.R_OK), reason="needs Linux")
def test_without_a_cache_images_are_decoded_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    tree(tmp_path / "d", {"a": 10, "b": 10})
    first = held(opened(f"imagefolder:{tmp_path / 'd'}")[1])
    shutil.rmtree(cache.folder())
    monkeypatch.setattr(mapped.tempfile, "TemporaryDirectory", refused)
    assert held(opened(f"imagefolder:{tmp_path / 'd'}")[1]) == first


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    tree(tmp_path / "d", {"a": 10, "b": 10})
    monkeypatch.setattr(mapped.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        opened(f"imagefolder:{tmp_path / 'd'}")
    assert list(fresh_cache.iterdir()) == []


# ---- what is wrong with them --------------------------------------------------------------------------------
def truncated(root: Path) -> None:
    file = root / "a" / "002.png"
    file.write_bytes(file.read_bytes()[:60])


def no_images(root: Path) -> None:
    for name in ("001", "004", "005", "006"):
        (root / "a" / f"{name}.png").write_text("<html>")


def grey(root: Path) -> None:
    (root / "b" / "003.png").write_bytes(png(pixels(8, 1)))


def larger(root: Path) -> None:
    (root / "b" / "003.png").write_bytes(png(pixels(9)))


def oblong(root: Path) -> None:
    for path in root.rglob("*.png"):
        Image.fromarray(pixels(8)).resize((8, 9)).save(path)


def odd_first(root: Path) -> None:
    Image.fromarray(pixels(9)).save(root / "a" / "000.png")


def monstrous(root: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(root / "a" / "002.png")


def empty(root: Path) -> None:
    (root / "zebra").mkdir()
    (root / "zebra" / "notes.txt").write_text("none yet")


def alone(root: Path) -> None:
    shutil.rmtree(root / "b")


def gone(root: Path) -> None:
    shutil.rmtree(root)


WRONG: list[tuple[Any, type[RobustDistillError], str]] = [
    (truncated, DamagedFile, r"1 of \d+ images of .* cannot be used: .*002.png holds no whole image"),
    (no_images, DamagedFile, r"of .* cannot be used: .*png is no image that can be read; .*Repair or remove them"),
    (
        grey,
        DamagedFile,
        r"003.png is L, 8x8 pixels; the others are RGB, 8x8 pixels.*put a size behind the folder, d@224",
    ),
    (larger, DamagedFile, r"003.png is RGB, 9x9 pixels; the others are RGB, 8x8"),
    (
        odd_first,
        DamagedFile,
        r"1 of \d+ images of .* cannot be used: .*000.png is RGB, 9x9 pixels; the others are RGB, 8x8",
    ),
    (oblong, UserError, r"000.png is RGB, 8x9 pixels, not square and grey or RGB: put a size behind"),
    (monstrous, DamagedFile, r"002.png claims more than 80 million pixels"),
    (empty, UserError, r"has classes without images \(zebra\): delete these folders or fill them"),
    (alone, UserError, r"holds 1 folders of classes, and at least 2 are needed"),
    (gone, UserError, r"there is no folder .*; write --data imagefolder:FOLDER"),
]


@pytest.mark.parametrize("spoil, kind, words", WRONG, ids=lambda v: getattr(v, "__name__", ""))
def test_folders_that_cannot_be(tmp_path: Path, fresh_cache: Path, spoil: Any, kind: Any, words: str) -> None:
    tree(tmp_path / "d", {"a": 30, "b": 30})
    spoil(tmp_path / "d")
    before = sorted(tmp_path.rglob("*.png"))
    with pytest.raises(kind, match=words):
        opened(f"imagefolder:{tmp_path / 'd'}")
    assert sorted(tmp_path.rglob("*.png")) == before
    assert not fresh_cache.exists() or list(fresh_cache.iterdir()) == []


def test_a_class_to_test_that_nobody_learns(tmp_path: Path) -> None:
    tree(tmp_path / "d", {"train/a": 3, "train/b": 3, "test/a": 3, "test/z": 3})
    with pytest.raises(UserError, match=r"has z, which .*train lacks"):
        REGISTRY.dataset(f"imagefolder:{tmp_path / 'd'}")


def test_parquet_rows_that_cannot_be(tmp_path: Path) -> None:
    good = [png(pixels()) for _ in range(40)]
    path = tmp_path / "d" / "train-00000-of-00001.parquet"
    shard(path, [*good, b"no image", None], [i % 2 for i in range(42)])
    with pytest.raises(DamagedFile, match=r"row 40 of .*parquet is no image that can be read"):
        opened(f"parquet:{tmp_path / 'd'}")
    shard(path, good, [*([0, 1] * 19), None, -1])
    with pytest.raises(DamagedFile, match=r"row 38 of .*parquet has no label"):
        opened(f"parquet:{tmp_path / 'd'}")
    shard(path, good, [i % 5 for i in range(40)], ["a", "b"])
    with pytest.raises(DamagedFile, match=r"row 2 of .*parquet has the label 2; expected an integer from 0 to 1"):
        opened(f"parquet:{tmp_path / 'd'}")
    pq.write_table(pa.table({"a": [1], "b": [2]}), path)
    with pytest.raises(DamagedFile, match=r"has the columns a, b; expected img or image, and one of label"):
        opened(f"parquet:{tmp_path / 'd'}")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DamagedFile, match="cannot be read as parquet"):
        opened(f"parquet:{tmp_path / 'd'}")
    path.unlink()
    with pytest.raises(UserError, match=r"holds no train-\*.parquet"):
        opened(f"parquet:{tmp_path / 'd'}")


def lacking(path: Path) -> None:
    np.savez(path, image=np.zeros((4, 8, 8, 3), np.uint8))


def floats(path: Path) -> None:
    np.savez(path, image=np.zeros((4, 8, 8, 3)), label=np.zeros(4, int))


def fewer(path: Path) -> None:
    np.savez(path, image=RNG.integers(0, 9, (4, 8, 8, 3), dtype=np.uint8), label=np.zeros(3, int))


def objects(path: Path) -> None:
    np.savez(path, image=RNG.integers(0, 9, (4, 8, 8, 3), dtype=np.uint8), label=np.array([{}] * 4, dtype=object))


def bomb(path: Path) -> None:
    np.savez_compressed(path, image=np.zeros((99_999, 8, 8, 3), np.uint8), label=np.zeros(99_999, int))


def flipped(path: Path) -> None:
    np.savez(path, image=RNG.integers(0, 9, (40, 8, 8, 3), dtype=np.uint8), label=np.arange(40) % 2)
    content = path.read_bytes()
    path.write_bytes(content[:4000] + bytes([content[4000] ^ 1]) + content[4001:])


def short(path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (40, 8, 8, 3)})
    labels = io.BytesIO()
    np.save(labels, np.arange(40) % 2)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", head.getvalue() + bytes(1000))
        archive.writestr("label.npy", labels.getvalue())


@pytest.mark.parametrize(
    "make, words",
    [
        (lacking, "it lacks label.npy and holds image.npy"),
        (floats, r"its images are float64 \[4, 8, 8, 3\]"),
        (fewer, r"its labels are int64 \[3\], not 4 integers"),
        (objects, "allow_pickle"),
        (bomb, "it would unfold to"),
        (flipped, "CRC"),
        (short, "cut short"),
    ],
)
def test_archives_that_cannot_be(tmp_path: Path, fresh_cache: Path, make: Any, words: str) -> None:
    make(tmp_path / "x.npz")
    with pytest.raises(DamagedFile, match=words):
        opened(f"npz:{tmp_path / 'x.npz'}")
    assert not fresh_cache.exists() or list(fresh_cache.iterdir()) == []


# ---- in a run -----------------------------------------------------------------------------------------------
def test_the_path_is_no_part_of_the_name(tmp_path: Path) -> None:
    for place in ("one", "two"):
        tree(tmp_path / place / "birds", {"a": 3, "b": 3}, size=20)
    layers = [{"data": f"imagefolder:{tmp_path / place / 'birds'}@16", "method": "sat"} for place in ("one", "two")]
    specs = [resolve([layer], REGISTRY) for layer in layers]
    assert specs[0].data.name == "imagefolder:birds@16"
    assert specs[0].data.dir == str(tmp_path / "one" / "birds")
    assert specs[0].hash() == specs[1].hash()
    assert resolve([specs[0].model_dump(by_alias=True, exclude_none=True)], REGISTRY) == specs[0]
    with pytest.raises(UserError, match="write a path in the place of"):
        resolve([{"data": "imagefolder:{path}"}], REGISTRY)


@pytest.mark.slow
def test_a_run_on_folders_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "birds", {"owl": 40, "tit": 40}, size=16)
    done = command(
        *("train", "--method", "sat", "--data", "imagefolder:birds", "--student", "digits-net", "--epochs", "2"),
        *("--batch-size", "16", "--steps", "2", "--set", "student.width=4"),
    )
    assert done.code == 0, done.err
    (run,) = (tmp_path / "runs").iterdir()
    assert "imagefolder" in run.name
    assert "birds" in run.name
    done = command("eval", run, "--attacks", "fgsm", "--checks", "8")
    assert done.code == 0, done.err
    assert "16 test images of imagefolder:birds" in done.out
    assert command("eval", run, "--data", "imagefolder:birds", "--attacks", "fgsm", "--checks", "0").code == 0
    assert command("report", run).code == 0
    assert "owl" in (run / "report.html").read_text()
    resumed = command("train", "--resume", run)
    assert resumed.code == 0, resumed.err
    missing = command("train", "--method", "mmard", "--data", "imagefolder:birds")
    assert (missing.code, "reads the teacher 'robust'" in missing.err) == (2, True), missing.err


@pytest.mark.slow
def test_images_of_224_pixels_with_a_students_of_somebodys_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "d", {"a": 12, "b": 12}, size=230)
    (tmp_path / "own_student.py").write_text(
        "import timm\n"
        "def net(num_classes, in_channels):\n"
        "    return timm.create_model('test_resnet', num_classes=num_classes, in_chans=in_channels)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = {"method": "sat", "data": f"imagefolder:{tmp_path / 'd'}@224", "student": "own_student:net", "device": "cpu"}
    more = {"epochs": 1, "limit_batches": 2, "batch_size": 4, "select": {"n": 2}, "attack": {"steps": 1}}
    list(rd.train({**spec, **more}, out=tmp_path / "run"))
    assert rd.load(tmp_path / "run")(torch.rand(2, 3, 224, 224)).shape == (2, 2)
