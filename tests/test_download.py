"""Downloads of the CIFARs, without a network: the hub's own library asks a stand-in on this machine."""

import contextlib
import errno
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision.datasets
from PIL import Image

import robustdistill as rd
from hub import Hub, serving
from robustdistill.builtin.models import digits_net
from robustdistill.cli import main
from robustdistill.data import cache, download, origins
from robustdistill.data.sources import cifar10, cifar100, svhn, tiny_imagenet
from robustdistill.errors import UserError
from robustdistill.store.weights import save_weights
from robustdistill.types import Splits

TRAIN, TEST = (f"uoft-cs/cifar10/{file}" for file in origins.CIFAR10.files)


def table(n: int, classes: int = 10, label: str = "label") -> bytes:
    """A parquet file of `n` images, one grey each, as the hub lays them out."""
    images, file = [], io.BytesIO()
    for i in range(n):
        image = io.BytesIO()
        Image.new("RGB", (32, 32), (i % 256,) * 3).save(image, "PNG")
        images.append({"bytes": image.getvalue(), "path": None})
    pq.write_table(pa.table({"img": images, label: [i % classes for i in range(n)]}), file)
    return file.getvalue()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


# ---- the hub's library against a stand-in of the hub --------------------------------------------------------
CODE = """
import sys
from robustdistill.data import download, origins
from robustdistill.errors import RobustDistillError
try:
    print(download.folder(origins.{origin}._replace(rows=({rows}))))
except RobustDistillError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving({TRAIN: table(40), TEST: table(20)}) as hub:
        yield hub


def fetched(
    hub: Hub, home: Path, rows: str = "40, 20", origin: str = "CIFAR10", **more: str
) -> "subprocess.CompletedProcess[str]":
    """`download.folder` in a process of its own: the library reads its environment when it is imported."""
    path = os.pathsep.join([str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "PYTHONPATH": path,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_CACHE": str(home / "hf" / "hub"),
        "XDG_CACHE_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
        **more,
    }
    code = CODE.format(rows=rows, origin=origin)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_both_files_come_once_and_are_found_again_without_a_request(hub: Hub, tmp_path: Path) -> None:
    first = fetched(hub, tmp_path)
    folder = Path(first.stdout.strip())
    assert (folder / "train-00000-of-00001.parquet").read_bytes() == hub.files[TRAIN]
    assert (folder / "test-00000-of-00001.parquet").read_bytes() == hub.files[TEST]
    assert [asked for asked in hub.asked if asked.startswith("GET uoft-cs")] == [f"GET {TRAIN}", f"GET {TEST}"]
    said = [line for line in first.stderr.splitlines() if "CIFAR" in line]
    assert said == [f"downloading CIFAR-10 (0 MB) from {hub.url.removeprefix('http://')}, once"]
    assert "%|" not in first.stderr  # no progress bar: it is no terminal
    hub.asked.clear()
    for offline in ("0", "1"):
        again = fetched(hub, tmp_path, HF_HUB_OFFLINE=offline)
        assert (again.stdout, again.stderr, hub.asked) == (first.stdout, "", [])


def test_a_flipped_byte_is_refused_deleted_and_downloaded_again(hub: Hub, tmp_path: Path) -> None:
    hub.sent[TEST] = flipped(hub.files[TEST])
    done = fetched(hub, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "DamagedFile: " in done.stderr
    assert "test-00000-of-00001.parquet has the sha256 " in done.stderr
    assert "It was deleted" in done.stderr
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["train-00000-of-00001.parquet"]
    assert hub.sent[TEST] not in [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    del hub.sent[TEST]
    hub.asked.clear()
    healed = fetched(hub, tmp_path)
    assert Path(healed.stdout.strip(), "test-00000-of-00001.parquet").read_bytes() == hub.files[TEST]
    assert [asked for asked in hub.asked if asked.startswith("GET uoft-cs")] == [f"GET {TEST}"]


def test_a_byte_that_flips_later_is_found_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    train = Path(fetched(hub, tmp_path).stdout.strip(), "train-00000-of-00001.parquet")
    assert train.is_symlink()
    train.resolve().write_bytes(flipped(hub.files[TRAIN]))
    done = fetched(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert "DamagedFile: " in done.stderr
    assert "train-00000-of-00001.parquet has the sha256 " in done.stderr
    assert not train.is_symlink()


def test_another_number_of_rows_is_refused(hub: Hub, tmp_path: Path) -> None:
    done = fetched(hub, tmp_path, rows="41, 20")
    assert "train-00000-of-00001.parquet holds 40 images, not 41. It was deleted" in done.stderr
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["test-00000-of-00001.parquet"]


@pytest.mark.parametrize("origin", ["SVHN", "TINY_IMAGENET"])
def test_what_the_hub_alone_has(origin: str, tmp_path: Path) -> None:
    """It comes from there, is found again, is compared, and nothing else is asked where the hub fails."""
    there = getattr(origins, origin)
    train, test = (f"{there.repo}/{file}" for file in there.files)
    with serving({train: table(40), test: table(20)}) as hub:
        first = fetched(hub, tmp_path, origin=origin)
        assert sorted(path.name for path in Path(first.stdout.strip()).iterdir()) == sorted(
            Path(name).name for name in (train, test)
        )
        hub.asked.clear()
        again = fetched(hub, tmp_path, origin=origin, HF_HUB_OFFLINE="1")
        assert (again.stdout, again.stderr, hub.asked) == (first.stdout, "", [])
        hub.sent[train] = flipped(hub.files[train])
        broken = fetched(hub, tmp_path / "elsewhere", origin=origin)
        assert f"{Path(train).name} has the sha256 " in broken.stderr
        hub.files.clear()
        gone = fetched(hub, tmp_path / "nowhere", origin=origin)
    assert gone.returncode == 1
    assert f"UserError: {there.title} cannot be downloaded (127.0.0.1:" in gone.stderr
    assert "toronto" not in gone.stderr
    assert "--data-dir FOLDER" in gone.stderr


# ---- when the hub does not answer ---------------------------------------------------------------------------
class Toronto:
    """torchvision's class: `fails` is what it raises, else it leaves an unpacked archive, and `calls` its arguments."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails, self.calls = fails, 0

    def __call__(self, root: str, *, train: bool, download: bool) -> None:
        self.calls += 1
        print("Downloading")
        print("100%|###", file=sys.stderr)
        assert (train, download) == (False, True)
        if self.fails:
            raise self.fails
        folder = Path(root, "cifar-10-batches-py")
        folder.mkdir()
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            content = {"data": np.zeros((20, 3072), np.uint8), "labels": [i % 10 for i in range(20)]}
            (folder / name).write_bytes(pickle.dumps(content))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", down)


def put(toronto: Toronto, monkeypatch: pytest.MonkeyPatch) -> Toronto:
    module = ModuleType("torchvision")
    module.datasets = ModuleType("torchvision.datasets")  # type: ignore[attr-defined]
    module.datasets.CIFAR10 = toronto  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", module)
    return toronto


def printed(load: Callable[[], object], terminal: bool) -> tuple[str, str]:
    """What `load` prints on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    err.isatty = lambda: terminal  # type: ignore[method-assign]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        load()
    return out.getvalue(), err.getvalue()


def test_without_the_hub_the_archive_is_downloaded_once(
    no_hub: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    toronto = put(Toronto(), monkeypatch)
    data = cifar10(None)
    [sentence] = caplog.messages
    assert sentence.startswith("huggingface.co: no route to host; downloading CIFAR-10 (170 MB) from www.cs.toronto")
    assert len(data.train) + len(data.holdout) == 100
    assert [path.name for path in cache.folder().iterdir()] == ["cifar-10-batches-py"]
    assert torch.equal(cifar10(None).holdout.labels, data.holdout.labels)
    assert toronto.calls == 1


@pytest.mark.parametrize(("terminal", "err"), [(True, "Downloading\n100%|###\n"), (False, "")])
def test_torchvisions_words_and_bar_are_for_the_stderr_of_a_terminal(
    no_hub: None, monkeypatch: pytest.MonkeyPatch, terminal: bool, err: str
) -> None:
    put(Toronto(), monkeypatch)
    assert printed(lambda: download.folder(origins.CIFAR10), terminal) == ("", err)


def test_when_neither_server_answers_both_are_named(no_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    put(Toronto(OSError("timed out")), monkeypatch)
    with pytest.raises(UserError, match=r"no route to host; www.cs.toronto.edu: timed out\); .*--data-dir FOLDER"):
        cifar10(None)
    assert not list(cache.folder().iterdir())


def test_a_full_disk_is_not_taken_for_a_server_that_is_down(no_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    put(Toronto(OSError(errno.ENOSPC, "No space left on device")), monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        cifar10(None)


@pytest.mark.parametrize(
    ("load", "title"),
    [(cifar10, "CIFAR-10"), (cifar100, "CIFAR-100"), (svhn, "SVHN"), (tiny_imagenet, "Tiny-ImageNet")],
)
def test_offline_nothing_is_asked(load: Callable[[None], Splits], title: str) -> None:
    with pytest.raises(UserError, match=rf"^{title} was not downloaded before, .*HF_HUB_OFFLINE.*--data-dir FOLDER"):
        load(None)


def test_the_origins_name_what_the_servers_have() -> None:
    assert origins.CIFAR100.repo == "uoft-cs/cifar100"
    assert origins.CIFAR100.files[1] == "cifar100/test-00000-of-00001.parquet"
    assert origins.CIFAR10.files[0] == "plain_text/train-00000-of-00001.parquet"
    for origin in (origins.CIFAR10, origins.CIFAR100):
        assert origin.archive is not None
        assert getattr(torchvision.datasets, origin.archive.loader).base_folder == origin.archive.batches.folder
        assert origin.archive.loader.upper() == origin.title.replace("-", "")
    assert (origins.SVHN.repo, origins.SVHN.rows) == ("ufldl-stanford/svhn", (73_257, 26_032))
    assert (origins.TINY_IMAGENET.repo, origins.TINY_IMAGENET.rows) == ("zh-plus/tiny-imagenet", (100_000, 10_000))


# ---- what asks for a download, and what does not ------------------------------------------------------------
def test_a_dry_run_downloads_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    call = ["train", "--method", "sat", "--student", "digits-net", "--data", "cifar100", "--device", "cpu"]
    for flag in ("--print-spec", "--dry-run"):
        with pytest.raises(SystemExit) as ended:
            main([*call, flag])
        assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "cifar100: 48,000 train, 2,000 holdout, 10,000 test; downloaded by the run unless it was before" in out
    assert "375 steps of 128" in out


@pytest.mark.parametrize("flags", [["--eps", "8"], ["--device", "cuda:99"]])
def test_a_wrong_call_of_eval_is_refused_before_the_download(
    flags: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = tmp_path / "student.safetensors"
    save_weights(weights, digits_net.build(num_classes=10, in_channels=3).state_dict())
    call = ["eval", f"digits-net@{weights}", "--data", "cifar10"]
    for more, asks_for_data in ((flags, False), ([], True)):
        with pytest.raises(SystemExit):
            main([*call, *more])
        assert ("HF_HUB_OFFLINE" in capsys.readouterr().err) == asks_for_data


def test_an_occupied_folder_is_refused_before_the_download(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spec = {"method": "sat", "student": "digits-net", "data": "cifar10", "device": "cpu"}
    with pytest.raises(UserError, match="holds files that are no run"):
        next(rd.train(spec, out=tmp_path))


def test_json_asks_for_silence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    others = {k: v for k, v in os.environ.items() if k != "HF_HUB_DISABLE_PROGRESS_BARS"}
    monkeypatch.setattr(os, "environ", others)
    for flags, value in (([], None), (["--json"], "1")):
        with pytest.raises(SystemExit):
            main(["list", "datasets", *flags])
        assert os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") == value
