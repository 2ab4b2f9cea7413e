"""Small files that would run a program or fill the memory: each ends in a sentence of its own.

docs/reliability.md quotes how many fill the memory.
"""

import io
import json
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import robustdistill as rd
from hostile import CANARY, Program
from kinds import SPEC
from robustdistill.data.sources import cifar10
from robustdistill.errors import DamagedFile, UnsafeFile, UserError
from robustdistill.store import pickled
from robustdistill.store.weights import read_weights
from test_cli import rd as command
from test_data import TEST, batch, write_batches


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
def test_a_strangers_spec_cannot_call_anything(here: Path, student: dict[str, Any]) -> None:
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


def test_the_page_quotes_how_many_there_are() -> None:
    page = (Path(__file__).parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert f"| small files that would fill the memory | {len(BOMBS) + len(PROGRAMS)} files |" in page
