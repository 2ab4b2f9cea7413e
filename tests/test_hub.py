"""Networks by timm's names, from a folder: nothing here touches the network."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import robustdistill as rd
from robustdistill import hub
from robustdistill.errors import UserError


def saved(folder: Path, classes: int = 10, **config: object) -> tuple[str, torch.nn.Module]:
    """A small timm network with one input channel, saved as timm saves it."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=classes, in_chans=1).eval()
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    described = {"mean": [0.3], "std": [0.5], "num_classes": classes, "input_size": [1, 8, 8]} | config
    about = {"architecture": "test_resnet", "num_classes": classes, "model_args": {"in_chans": 1}}
    (folder / "config.json").write_text(json.dumps({**about, "pretrained_cfg": described}))
    return f"local-dir:{folder}", network


def test_normalisation_is_inside(tmp_path: Path) -> None:
    name, network = saved(tmp_path / "net")
    x = torch.rand(4, 1, 8, 8)
    loaded = hub.load(name, 10)
    assert not loaded.training
    torch.testing.assert_close(loaded(x), network((x - 0.3) / 0.5))


def test_a_network_of_timm_is_judged_by_name(tmp_path: Path) -> None:
    name, _ = saved(tmp_path / "net")
    verdicts = list(rd.evaluate(name, data="digits", attacks=["fgsm"], n=20, device="cpu"))
    assert [v.attack for v in verdicts] == ["clean", "fgsm", "worst"]


def test_other_classes_are_refused(tmp_path: Path) -> None:
    name, _ = saved(tmp_path / "net", classes=7)
    with pytest.raises(UserError, match="7 classes apart and the data has 10"):
        hub.load(name, 10)


def test_unknown_names_are_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'resnet18"):
        hub.load("timm:resnet1888", 10)
    with pytest.raises(UserError, match="cannot be had"):
        hub.load(f"local-dir:{tmp_path}/nothing", 10)
