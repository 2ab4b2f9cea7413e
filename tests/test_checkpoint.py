"""Checkpoints: whole or not there, every changed byte noticed, no code run, the last good one found."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustdistill.errors import DamagedFile, UserError
from robustdistill.store import checkpoint, manifest, sealed
from robustdistill.store.atomic import sha256

FILES = ["average.safetensors", "manifest.json", "state.pt", "student.safetensors"]


def weights(value: float = 0.0) -> dict[str, dict[str, Tensor]]:
    student = {
        "conv.weight": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "fc.weight": torch.randn(3, 5).t(),
        "half": torch.randn(3).bfloat16(),
        "bn.num_batches_tracked": torch.tensor(7),
        "value": torch.tensor([value, float("nan"), float("-inf"), -0.0]),
        "model.mean": torch.zeros(1, 0),
    }
    return {"student": student, "average": {"value": torch.tensor([value])}}


def trainer_state() -> dict[str, Any]:
    """A real optimiser's state among plain values of every kind."""
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {"optimizer": optimizer.state_dict(), "epoch": 3, "best": 0.5, "on": True, "none": None, "list": ["x", (1,)]}


def save(root: Path, name: str = "epoch-0003", value: float = 0.0) -> Path:
    return checkpoint.save(root, name, weights=weights(value), state=trainer_state(), meta={"epoch": 3, "lr": 0.1})


def value(found: checkpoint.Checkpoint | None) -> float:
    assert found is not None
    return found.weights["average"]["value"].item()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).tolist())


def forge(folder: Path, **changes: Any) -> None:
    """Rewrite the manifest as an attacker or another version would: consistent with itself and the files."""
    body = json.loads((folder / "manifest.json").read_text())
    for name, entry in body["files"].items():
        entry |= {"sha256": sha256(folder / name), "size": (folder / name).stat().st_size}
    body = {key: item for key, item in body.items() if key != "digest"} | changes
    (folder / "manifest.json").write_text(sealed.spelt(body))


# --- round trip


def test_layout(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints")
    assert path == tmp_path / "checkpoints" / "epoch-0003"
    assert sorted(names(path)) == FILES
    assert names(path.parent) == {"epoch-0003", "latest"}
    assert (path.parent / "latest").read_text() == "epoch-0003\n"


def test_round_trip_is_equal_to_the_bit(tmp_path: Path) -> None:
    given, state = weights(), trainer_state()
    path = checkpoint.save(tmp_path, "a", weights=given, state=state, meta={"epoch": 3, "loss": float("nan")})
    found = checkpoint.load(path)
    assert found.weights.keys() == given.keys()
    for key, tensors in given.items():
        assert found.weights[key].keys() == tensors.keys()
        for name, tensor in tensors.items():
            back = found.weights[key][name]
            assert (back.dtype, back.shape, bits(back)) == (tensor.dtype, tensor.shape, bits(tensor)), name
    momentum = found.state["optimizer"]["state"][0].pop("momentum_buffer")
    assert torch.equal(momentum, state["optimizer"]["state"][0].pop("momentum_buffer"))
    plain = {key: item for key, item in state.items() if key != "optimizer"}
    assert {key: item for key, item in found.state.items() if key != "optimizer"} == plain
    assert found.state["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    assert found.meta == {"epoch": 3, "loss": None}
    assert found.manifest["schema"] == manifest.SCHEMA


def test_tied_weights_round_trip(tmp_path: Path) -> None:
    shared = torch.randn(2, 2)
    tied = {"student": {"a": shared, "b": shared, "row": shared[0]}}
    found = checkpoint.load(checkpoint.save(tmp_path, "a", weights=tied, state={}, meta={}))
    assert torch.equal(found.weights["student"]["b"], shared)
    assert torch.equal(found.weights["student"]["row"], shared[0])


@pytest.mark.parametrize("thing", [nn.Linear(1, 1), Path("a"), np.float64(0.5)])
def test_state_that_needs_code_is_refused_when_saved(tmp_path: Path, thing: object) -> None:
    save(tmp_path, "good", value=1)
    with pytest.raises(TypeError, match="something else than tensors and plain values"):
        checkpoint.save(tmp_path, "bad", weights=weights(), state={"thing": thing}, meta={})
    assert names(tmp_path) == {"good", "latest"}


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "a\n"])
def test_names_stay_inside_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssertionError, match="not a checkpoint name"):
        save(tmp_path, name)


# --- damage


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    file = save(tmp_path) / name
    good = file.read_bytes()
    every = range(0, len(good), 5) if name == "manifest.json" else {0, 8, len(good) // 2, len(good) - 1}
    for position in every:
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        file.write_bytes(bad)
        with pytest.raises(DamagedFile, match=rf"{name} (was|is|has) "):
            checkpoint.load(file.parent)
    file.write_bytes(good)
    checkpoint.load(file.parent)


def test_changed_space_in_the_manifest_is_refused(tmp_path: Path) -> None:
    file = save(tmp_path) / "manifest.json"
    file.write_text(file.read_text().replace(": ", ":\t", 1))  # the same JSON, another file
    with pytest.raises(DamagedFile, match=r"manifest\.json was altered"):
        checkpoint.load(file.parent)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, 20])
def test_truncated_file_is_refused(tmp_path: Path, name: str, length: int) -> None:
    file = save(tmp_path) / name
    good = file.read_bytes()
    file.write_bytes(good[:length])
    what = "is not JSON" if name == "manifest.json" else f"has {length} bytes instead of {len(good)}"
    with pytest.raises(DamagedFile, match=rf"{name} {what}.* use an earlier checkpoint"):
        checkpoint.load(file.parent)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    file = save(tmp_path) / name
    file.unlink()
    with pytest.raises(DamagedFile, match=f"{name} is missing"):
        checkpoint.load(file.parent)


def test_extra_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path)
    (path / "other.safetensors").write_bytes(b"")
    with pytest.raises(DamagedFile, match=r"other\.safetensors does not belong to the checkpoint"):
        checkpoint.load(path)


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path)
    forge(path, schema=manifest.SCHEMA + 1, files="in a way not known today")
    with pytest.raises(DamagedFile, match=r"manifest\.json has schema 2, .* reads up to 1\. Upgrade robustdistill"):
        checkpoint.load(path)


@pytest.mark.parametrize("text", ["[]", "{}", "3", '{"schema": "1"}', '{"schema": null}'])
def test_json_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = save(tmp_path)
    (path / "manifest.json").write_text(text)
    with pytest.raises(DamagedFile, match=r"manifest\.json is no checkpoint manifest"):
        checkpoint.load(path)


def test_no_checkpoint_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no checkpoint .*epoch-9"):
        checkpoint.load(tmp_path / "epoch-9")


class Malicious:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.touched,)


@pytest.mark.parametrize("how", ["torch", "zip-name", "pickle"])
def test_malicious_state_is_not_run(tmp_path: Path, how: str) -> None:
    path, touched = save(tmp_path), tmp_path / "touched"
    if how == "pickle":
        (path / "state.pt").write_bytes(pickle.dumps(Malicious(touched)))
    else:
        torch.save({"epoch": Malicious(touched)}, path / "state.pt")
    if how == "zip-name":
        with zipfile.ZipFile(path / "state.pt", "a") as archive:
            archive.writestr("more", "x")
    forge(path)
    with pytest.raises(DamagedFile, match=r"state\.pt cannot be read without running code from it"):
        checkpoint.load(path)
    assert not touched.exists()


def test_forged_weights_are_refused(tmp_path: Path) -> None:
    path, touched = save(tmp_path), tmp_path / "touched"
    (path / "student.safetensors").write_bytes(pickle.dumps(Malicious(touched)))
    forge(path)
    with pytest.raises(DamagedFile, match=r"student\.safetensors is no safetensors file"):
        checkpoint.load(path)
    assert not touched.exists()


# --- the newest good one


def test_latest_of_nothing(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) == checkpoint.Found(None, ())
    assert checkpoint.latest(tmp_path / "missing").checkpoint is None


def test_latest_follows_the_pointer(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path, f"epoch-{number}", value=number)
    assert value(checkpoint.latest(tmp_path).checkpoint) == 2
    checkpoint.note(tmp_path, "latest", "epoch-1")
    assert value(checkpoint.latest(tmp_path).checkpoint) == 1


@pytest.mark.parametrize("name", FILES)
def test_damaged_latest_is_named_and_the_previous_good_one_used(tmp_path: Path, name: str) -> None:
    for number in (8, 9, 10):  # by age, not by spelling: "epoch-10" < "epoch-9"
        save(tmp_path, f"epoch-{number}", value=number)
    file = tmp_path / "epoch-10" / name
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    found = checkpoint.latest(tmp_path)
    assert value(found.checkpoint) == 9
    assert len(found.damaged) == 1
    assert str(file) in found.damaged[0]


def test_two_damaged_ones_are_both_named(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path, f"epoch-{number}", value=number)
    (tmp_path / "epoch-1" / "state.pt").unlink()
    shutil.rmtree(tmp_path / "epoch-2")
    found = checkpoint.latest(tmp_path)
    assert value(found.checkpoint) == 0
    assert ["epoch-2" in found.damaged[0], "epoch-1" in found.damaged[1]] == [True, True]


def test_damaged_pointer_is_named_and_the_newest_used(tmp_path: Path) -> None:
    save(tmp_path, "a", value=1)
    save(tmp_path, "b", value=2)
    (tmp_path / "latest").write_bytes(b"\xff/../a")
    found = checkpoint.latest(tmp_path)
    assert value(found.checkpoint) == 2
    assert "latest does not hold a checkpoint's name" in found.damaged[0]


def test_missing_pointer_means_the_newest(tmp_path: Path) -> None:
    save(tmp_path, "b", value=1)
    save(tmp_path, "a", value=2)
    (tmp_path / "latest").unlink()
    assert value(checkpoint.latest(tmp_path).checkpoint) == 2


def test_all_damaged(tmp_path: Path) -> None:
    (save(tmp_path, "a") / "state.pt").unlink()
    (save(tmp_path, "b") / "student.safetensors").unlink()
    with pytest.raises(DamagedFile, match=r"no good checkpoint: .*b.student\.safetensors is missing.*a.state\.pt is"):
        checkpoint.latest(tmp_path)


# --- interrupted saves


@pytest.mark.parametrize("call, calls", [("replace", 4), ("fsync", 8)])
@pytest.mark.parametrize("name", ["first", "second"])
def test_interrupted_save_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, calls: int, name: str
) -> None:
    for nth in range(calls + 1):
        root = tmp_path / str(nth)
        save(root, "first", value=1)
        fails = interrupted(call, nth, partial(save, root, name, value=2), monkeypatch)
        pointed, found = checkpoint.noted(root, "latest"), checkpoint.latest(root)
        assert found.damaged == ()
        assert pointed == "first" or nth >= calls - 2
        assert value(found.checkpoint) == (1 if pointed == "first" else 2) or name == "first"
        save(root, "third")
        assert names(root) - {"second"} == {"first", "third", "latest"}
    assert not fails


def interrupted(call: str, nth: int, action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run `action`, raising KeyboardInterrupt at the nth os.<call>; False if it made fewer such calls."""
    real, calls = getattr(os, call), count()

    def replacement(*args: Any) -> Any:
        if next(calls) == nth:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, replacement)
        try:
            action()
        except KeyboardInterrupt:
            return True
    return False


KILLED = """
import os, pathlib, signal, sys, torch
from robustdistill.store import checkpoint
real, countdown = os.replace, int(sys.argv[2])
def replace(*args):
    global countdown
    countdown -= 1
    if countdown < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*args)
os.replace = replace
weights = {"average": {"value": torch.tensor([2.0])}}
checkpoint.save(pathlib.Path(sys.argv[1]), "only", weights=weights, state={}, meta={})
"""


@pytest.mark.parametrize("countdown", [0, 2])
def test_killed_save_loses_nothing_and_the_next_one_clears_up(tmp_path: Path, countdown: int) -> None:
    save(tmp_path, "only", value=1)
    source = str(Path(checkpoint.__file__).parents[2])
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(countdown)]
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": source}).returncode == -9
    assert any(name.startswith(".") for name in names(tmp_path))
    assert value(checkpoint.latest(tmp_path).checkpoint) == 1
    save(tmp_path, "next", value=3)
    assert names(tmp_path) == {"only", "next", "latest"}
    assert value(checkpoint.load(tmp_path / "only")) == 1
    assert value(checkpoint.latest(tmp_path).checkpoint) == 3


def test_leftovers_of_living_processes_stay(tmp_path: Path) -> None:
    (tmp_path / f".tmp-a-{os.getppid()}").mkdir()
    (tmp_path / f".tmp-b-{os.getpid()}").mkdir()
    (tmp_path / ".hidden").mkdir()
    save(tmp_path, "c")
    assert names(tmp_path) == {f".tmp-a-{os.getppid()}", ".hidden", "c", "latest"}


def test_saving_a_name_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, "a", value=1)
    save(tmp_path, "b", value=2)
    save(tmp_path, "a", value=3)
    assert names(tmp_path) == {"a", "b", "latest"}
    assert value(checkpoint.latest(tmp_path).checkpoint) == 3
    (tmp_path / "latest").unlink()
    assert value(checkpoint.latest(tmp_path).checkpoint) == 3


# --- notes and pruning


def test_notes(tmp_path: Path) -> None:
    assert checkpoint.noted(tmp_path, "best") is None
    checkpoint.note(tmp_path, "best", "epoch-0002")
    assert checkpoint.noted(tmp_path, "best") == "epoch-0002"
    assert checkpoint.noted(tmp_path, save(tmp_path).name) is None  # a checkpoint is no label


def test_prune_keeps_the_last_two_the_noted_and_the_named(tmp_path: Path) -> None:
    for number in range(6, 13):
        save(tmp_path, f"epoch-{number}")
    checkpoint.note(tmp_path, "best", "epoch-7")
    (tmp_path / "mine").mkdir()
    checkpoint.prune(tmp_path, keep={"epoch-9"})
    assert names(tmp_path) == {"epoch-7", "epoch-9", "epoch-11", "epoch-12", "best", "latest", "mine"}
    checkpoint.note(tmp_path, "best", "epoch-12")
    checkpoint.prune(tmp_path, last=1)
    assert names(tmp_path) == {"epoch-12", "best", "latest", "mine"}


def test_prune_with_few_checkpoints_deletes_nothing(tmp_path: Path) -> None:
    save(tmp_path, "a")
    checkpoint.prune(tmp_path, last=2)
    assert names(tmp_path) == {"a", "latest"}
