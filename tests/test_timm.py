"""timm's networks by name: as students untrained and of any size, as teachers with their normalisation inside."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import robustdistill as rd
from robustdistill.assemble import build_student, build_teacher
from robustdistill.builtin.models import resnet
from robustdistill.errors import DamagedFile, UserError
from robustdistill.events import Finished, Stepped
from robustdistill.plugins import Plugin, load_plugins
from robustdistill.registry import Registry, default_registry
from robustdistill.resolve import resolve
from robustdistill.spec import Node
from robustdistill.store import checkpoint, rundir
from robustdistill.types import Augment, Dataset, Split, Splits
from test_cli import rd as command

SMALL = {"limit_batches": 2, "batch_size": 8, "epochs": 2, "select": {"n": 8}, "attack": {"steps": 1}, "device": "cpu"}
DIGITS = default_registry().get("dataset", "digits")


def made(network: str, size: int = 32, classes: int = 10, channels: int = 3, **params: Any) -> nn.Module:
    build = default_registry().build("model", f"timm:{network}", {"network": network, **params})
    network_: nn.Module = build(num_classes=classes, in_channels=channels, image_size=size)
    return network_


# ---- students -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("size, classes, channels", [(32, 10, 3), (64, 7, 1)])
def test_a_student_is_made_for_the_data(name: str, size: int, classes: int, channels: int) -> None:
    network = made(name, size, classes, channels).eval()
    assert network(torch.rand(2, channels, size, size)).shape == (2, classes)


def test_a_network_for_one_size_is_made_for_that_of_the_data() -> None:
    """A transformer of 224 pixels has places for the four patches of 32 pixels and a class token."""
    network = made("vit_tiny_patch16_224", 32).eval()
    assert network.get_parameter("pos_embed").shape == (1, 5, 192)
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 10)


def test_a_resnet_with_the_cifar_stem_is_the_one_of_the_ard_papers() -> None:
    """timm's ResNet-18 differs from theirs in the stem and in the names of projections and classifier."""
    network, ours = made("resnet18", stem="cifar"), resnet.build(num_classes=10, in_channels=3)
    renamed = {
        k.replace("downsample", "shortcut").replace("fc.", "linear."): v for k, v in network.state_dict().items()
    }
    ours.load_state_dict(renamed)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(network.double().eval()(x), ours.double().eval()(x))
    assert not torch.allclose(made("resnet18").double().eval()(x), network(x))


@pytest.mark.parametrize(
    "name", ["resnet50d", "seresnet18", "densenet121", "resnetv2_50", "resnetblur18", "test_nfnet"]
)
def test_a_cifar_stem_keeps_the_resolution(name: str) -> None:
    """Four times the multiplications of the ImageNet stem, where that halves the resolution once; else sixteen."""
    from robustdistill.engine.work import forward_flops

    with torch.device("meta"):
        plain, opened = (forward_flops(made(name, stem=stem), (1, 3, 64, 64)) for stem in ("default", "cifar"))
    pools = name != "test_nfnet"
    assert opened / plain == pytest.approx(16 if pools else 4, rel=0.1)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "vgg11", "repvgg_a0"])
def test_what_has_no_such_stem_says_so(name: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=f"timm:{name} has no stem of one convolution"):
        made(name, stem="cifar")


def test_unknown_and_impossible_networks_are_refused() -> None:
    with pytest.raises(UserError, match="timm has no network 'resnet1888'; did you mean 'resnet18"):
        made("resnet1888")
    with torch.device("meta"), pytest.raises(UserError, match=r"cannot be made for images 3 x 7 x 7: .*choose another"):
        made("xcit_nano_12_p8_224", size=7)
    with pytest.raises(UserError, match="timm:mixer_s32_224 cannot be made for images 1 x 8 x 8: "):
        list(rd.train(SMALL | {"student": "timm:mixer_s32_224"}))
    with pytest.raises(UserError, match=r"student\.stem"):
        resolve([{"student": {"name": "timm:test_resnet", "stem": "big"}}], default_registry())
    with pytest.raises(UserError, match="pretrained"):
        resolve([{"student": {"name": "timm:test_resnet", "pretrained": True}}], default_registry())
    with pytest.raises(UserError, match="'local-dir:x' names trained weights; a student starts without"):
        list(rd.train({"student": "local-dir:x"}))


def test_the_spec_is_complete_and_the_seed_decides_the_weights() -> None:
    registry = default_registry()
    spec = resolve([{"student": "timm:test_resnet", "seed": 3}], registry)
    assert spec.student.params == {"network": "test_resnet", "stem": "default"}
    before = torch.get_rng_state()
    one, two = (build_student(spec, DIGITS, registry).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[k], two[k]) for k in one)
    other = build_student(spec.model_copy(update={"seed": 4}), DIGITS, registry).state_dict()
    assert not all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("name", ["timm:test_resnet", "rn-18", "resnet-20"])
def test_a_student_normalises_inside(name: str) -> None:
    registry = default_registry()
    cifar, layer = registry.get("dataset", "cifar10"), {"data": "cifar10", "student": {"name": name}}
    plain = build_student(resolve([layer], registry), cifar, registry).double().eval()
    layer = {"data": "cifar10", "student": {"name": name, "normalisation": "cifar10"}}
    inside = build_student(resolve([layer], registry), cifar, registry).double().eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]))
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(inside(x), plain((x - mean) / std), rtol=1e-5, atol=1e-5)


def test_a_normalisation_for_other_channels_is_refused() -> None:
    with pytest.raises(UserError, match="normalisation 'cifar10' is for images of 3 channels, not 1; use 'none'"):
        list(rd.train({"student": {"name": "timm:test_resnet", "normalisation": "cifar10"}}))


# ---- runs ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("student", [{"name": "timm:test_resnet", "stem": "cifar"}, {"name": "resnet-8"}])
def test_a_run_is_saved_resumed_and_loaded(student: dict[str, Any], tmp_path: Path) -> None:
    spec = SMALL | {"method": "rslad", "student": student | {"normalisation": "half"}}
    list(rd.train(spec, out=tmp_path / "whole"))
    for event in rd.train(spec, out=tmp_path / "cut"):
        if isinstance(event, Stepped) and event.epoch == 1:
            break
    list(rd.resume(tmp_path / "cut"))
    whole, cut = (rd.load(tmp_path / name, "latest") for name in ("whole", "cut"))
    assert all(torch.equal(v, cut.state_dict()[k]) for k, v in whole.state_dict().items())
    assert not whole.training
    assert whole.get_buffer("mean").flatten().tolist() == [0.5]


def test_a_trained_student_is_a_teacher_by_its_file(tmp_path: Path) -> None:
    """With the normalisation that it was trained behind: the file holds it."""
    student = {"name": "resnet-8", "normalisation": "half"}
    list(rd.train(SMALL | {"method": "sat", "epochs": 1, "student": student}, out=tmp_path / "run"))
    trained = rd.load(tmp_path / "run")
    save_file(trained.state_dict(), tmp_path / "t.safetensors")
    taught = build_teacher(Node(name=str(tmp_path / "t.safetensors")), DIGITS, default_registry(), "digits")
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(taught(x), trained(x))


def photographs(n: int) -> Split:
    """Large colour images, of two classes that differ in brightness."""
    labels = torch.arange(n) % 2
    noise = torch.randint(0, 100, (n, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    return Split((noise + 100 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


@pytest.fixture
def large() -> Registry:
    data = Dataset(
        load=lambda _: Splits(photographs(12), photographs(4), photographs(4)),
        classes=("dark", "bright"),
        channels=3,
        size=224,
        eps="4/255",
        augment=Augment(pad=8, flip=True),
        student="timm:test_resnet",
        teacher="digits-robust",
    )
    return Registry([*load_plugins(), Plugin("large", "test", "1", {"register_datasets": {"photographs": data}})])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_student_learns_from_large_images(name: str, large: Registry, tmp_path: Path) -> None:
    layer = {"method": "sat", "data": "photographs", "student": f"timm:{name}", "batch_size": 4, "epochs": 1}
    chosen = {"optim": {"lr": 0.01}, "select": {"n": 4, "attack": "fgsm"}, "limit_batches": 3}
    events = list(rd.train(SMALL | layer | chosen, registry=large, out=tmp_path / "run"))
    assert [e.loss for e in events if isinstance(e, Stepped)][-1] > 0
    assert isinstance(events[-1], Finished)
    network = rd.load(tmp_path / "run", registry=large)
    assert network(photographs(2).images / 255).shape == (2, 2)


@pytest.mark.slow
def test_a_folder_of_photographs_trains_a_student_of_timm_from_the_command_line(here: Path) -> None:
    """224 pixels, a folder a class: `train` by its flags alone, `eval` of what it left."""
    for i, (image, label) in enumerate(zip(*vars(photographs(24)).values(), strict=True)):
        file = here / "photographs" / ("train", "test")[i >= 16] / ("dark", "bright")[label] / f"{i:02}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, quality=95)
    data, out = ("--data", "imagefolder:photographs"), ("--out", "run", "--device", "cpu", "--json")
    sets = [x for pair in ("limit_batches=3", "select.n=2", "select.attack=fgsm") for x in ("--set", pair)]
    size = ("--epochs", "2", "--batch-size", "4", "--steps", "2", "--lr", "0.01")
    done = command("train", "--method", "trades", "--student", "timm:test_resnet", *data, *size, *sets, *out)
    assert done.code == 0, done.err
    losses = [r["loss"] for r in done.records if r["event"] == "stepped" and r["loss"] is not None]
    assert len(losses) >= 2
    assert all(0 < loss < 10 for loss in losses)
    judged = command("eval", "run", "--attacks", "fgsm", "--checks", "0", "--json").records[-1]
    assert (judged["data"], judged["n"], judged["eps"]) == ("imagefolder:photographs", 8, pytest.approx(4 / 255))
    assert rd.load("run")(photographs(2).images / 255).shape == (2, 2)


@pytest.mark.slow
def test_compiled_students_of_timm_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole graphs: nothing in such a network falls back to Python. (Code is generated in tests/test_compile.py.)"""
    real: Any = torch.compile

    def compiled(network: Any, dynamic: bool) -> Any:
        return real(network, dynamic=dynamic, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", compiled)
    losses = []
    for mode in ("eager", "compile"):
        student = {"name": "timm:test_resnet", "normalisation": "half"}
        spec = SMALL | {"method": "sat", "student": student, "epochs": 1, "precision": "fp64", "mode": mode}
        events = list(rd.train(spec))
        assert not any("cannot be compiled" in str(e) for e in events)
        losses.append([e.loss for e in events if isinstance(e, Stepped)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


# ---- teachers -----------------------------------------------------------------------------------------------
def folder(path: Path, seed: int = 0, classes: int = 10) -> tuple[str, nn.Module]:
    """A small network in a folder as timm and the hub lay it out."""
    torch.manual_seed(seed)
    network = timm.create_model("test_resnet", num_classes=classes, in_chans=1).eval()
    path.mkdir(exist_ok=True)
    save_file(network.state_dict(), path / "model.safetensors")
    described = {"mean": [0.3], "std": [0.5], "num_classes": classes, "input_size": [1, 8, 8]}
    about = {"architecture": "test_resnet", "num_classes": classes, "model_args": {"in_chans": 1}}
    (path / "config.json").write_text(json.dumps({**about, "pretrained_cfg": described}))
    return f"local-dir:{path}", network


def expected(network: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = network((x - 0.3) / 0.5)
    return out


def test_a_folder_is_a_teacher_with_its_normalisation_inside(tmp_path: Path) -> None:
    name, network = folder(tmp_path / "net")
    taught = build_teacher(Node(name=name), DIGITS, default_registry(), "digits")
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(taught(x), expected(network, x))
    assert not taught.training
    assert not any(p.requires_grad for p in taught.parameters())


def test_a_run_records_such_a_teacher_and_refuses_another_in_its_place(tmp_path: Path) -> None:
    name, _ = folder(tmp_path / "net")
    spec = SMALL | {"method": "ard", "teacher": name, "student": {"name": "digits-net", "width": 4}}
    for event in rd.train(spec, out=tmp_path / "run"):
        if isinstance(event, Stepped) and event.epoch == 1:
            break
    (sha,) = checkpoint.latest(rundir.open_run(tmp_path / "run").checkpoints).checkpoint.meta["teachers"].values()  # type: ignore[union-attr]
    assert len(sha) == 64
    folder(tmp_path / "net", seed=1)
    with pytest.raises(UserError, match="is not the file that this run began with"):
        list(rd.resume(tmp_path / "run"))
    folder(tmp_path / "net")
    assert isinstance(list(rd.resume(tmp_path / "run"))[-1], Finished)


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    registry = default_registry()
    cifar = registry.get("dataset", "cifar10")
    name, _ = folder(tmp_path / "net")
    with pytest.raises(UserError, match=r"teacher local-dir:.* does not take images \[2, 3, 32, 32\]"):
        build_teacher(Node(name=name), cifar, registry, "cifar10")
    name, _ = folder(tmp_path / "net", classes=7)
    with pytest.raises(UserError, match="7 classes apart and the data has 10"):
        list(rd.train(SMALL | {"method": "ard", "teacher": name}))
    with pytest.raises(UserError, match="cannot be had"):
        list(rd.train(SMALL | {"method": "ard", "teacher": "hf-hub:nobody/nothing"}))
    with pytest.raises(UserError, match="cannot be had"):
        list(rd.train(SMALL | {"method": "ard", "teacher": f"local-dir:{tmp_path}/none"}))


def test_an_architecture_of_timm_and_a_file_is_a_teacher(tmp_path: Path) -> None:
    folder(tmp_path / "net")
    file = tmp_path / "net" / "model.safetensors"
    taught = build_teacher(Node(name=f"timm:test_resnet@{file}"), DIGITS, default_registry(), "digits")
    own = load_file(file)
    assert all(torch.equal(v, own[k]) for k, v in taught.state_dict().items())
    save_file({k: v for k, v in own.items() if k != "fc.bias"}, file)
    with pytest.raises(UserError, match=r"missing fc\.bias; unexpected nothing"):
        build_teacher(Node(name=f"timm:test_resnet@{file}"), DIGITS, default_registry(), "digits")


def test_a_benchmark_takes_a_network_of_timm() -> None:
    """Nothing is downloaded: the teacher's weights are random."""
    from robustdistill.bench.standin import teachers_for

    spec = resolve([{"method": "ard", "teacher": "timm:test_resnet"}], default_registry())
    made_ = teachers_for(spec, DIGITS, default_registry())
    assert made_["robust"](torch.rand(2, 1, 8, 8)).shape == (2, 10)


class Malicious:
    """Makes a folder when unpickled by anything that runs code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("role", ["teacher", "target of eval"])
def test_nothing_in_a_folder_is_executed(role: str, tmp_path: Path) -> None:
    name, _ = folder(tmp_path / "net")
    (tmp_path / "net" / "model.safetensors").unlink()
    torch.save({"fc.weight": Malicious(tmp_path / "marker")}, tmp_path / "net" / "pytorch_model.bin")
    if role == "teacher":
        doing: Iterator[Any] = rd.train(SMALL | {"method": "ard", "teacher": name})
    else:
        doing = rd.evaluate(name, data="digits", attacks=["clean"], n=4, device="cpu")
    with pytest.raises(DamagedFile, match="can only be read by running code; nothing was run"):
        list(doing)
    assert not (tmp_path / "marker").exists()
