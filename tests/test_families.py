"""Every family of checkpoints that is published, in the forms that it is published in, as a teacher by its file."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import families
from families import FAMILIES, Family, Weights
from robustdistill.assemble import build_teacher
from robustdistill.errors import UserError
from robustdistill.normalise import as_the_weights
from robustdistill.registry import default_registry, match_template
from robustdistill.spec import Node

REGISTRY = default_registry()
CIFAR10 = REGISTRY.get("dataset", "cifar10")
C10 = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]
IMAGE_STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
HALF = [0.5] * 3, [0.5] * 3
ALL = pytest.mark.parametrize("name", FAMILIES)


def vector(values: list[float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)


def normalised(x: Tensor, statistics: tuple[list[float], list[float]]) -> Tensor:
    mean, std = (vector(v).to(x.dtype) for v in statistics)
    return (x - mean) / std


def teacher(path: Path, arch: str = "", **params: Any) -> nn.Module:
    name = f"{arch}@{path}" if arch else str(path)
    return build_teacher(Node(name=name, **params), CIFAR10, REGISTRY, "cifar10")


def check(network: nn.Module, family: Family, w: Weights, statistics: Any = None) -> None:
    """The network computes what the family's formula gives, in float64."""
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own = {k: v.double() if v.is_floating_point() else v for k, v in w.items()}
    expected = family.forward(own, normalised(x, statistics) if statistics else x)
    assert expected.std() > 0.1  # or nothing is compared
    torch.testing.assert_close(network.double()(x), expected, rtol=1e-6, atol=1e-6)  # std is rounded to float32


def put(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def prefixed(w: Weights, prefix: str) -> Weights:
    return {prefix + k: v for k, v in w.items()}


FORMS: dict[str, Callable[[Weights], Any]] = {
    "plain": lambda w: w,
    "without step counters": lambda w: {k: v for k, v in w.items() if not k.endswith("num_batches_tracked")},
    "data parallel": lambda w: prefixed(w, "module."),
    "RobustBench": lambda w: {"state_dict": prefixed(w, "model.")},
    "kuangliu": lambda w: {"net": prefixed(w, "module."), "acc": 90.0, "epoch": 199},
    "DM-Improves-AT": lambda w: {"model_state_dict": prefixed(w, "module.0."), "unaveraged_model_state_dict": {}},
}


@ALL
@pytest.mark.parametrize("form", FORMS)
def test_a_published_file_is_recognised_and_computes_what_it_should(name: str, form: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    w = families.weights(family.shapes(10))
    network = teacher(put(tmp_path / "w.pt", FORMS[form](w)))
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    check(network, family, w, C10 if name.endswith("swish") else None)


@ALL
def test_safetensors_and_half_precision(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    w = families.weights(family.shapes(10))
    save_file(w, tmp_path / "w.safetensors")
    check(teacher(tmp_path / "w.safetensors"), family, w, C10 if name.endswith("swish") else None)
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in w.items()}
    rounded = {k: v.float() if v.is_floating_point() else v for k, v in half.items()}
    check(teacher(put(tmp_path / "h.pt", half)), family, rounded, C10 if name.endswith("swish") else None)


@ALL
def test_missing_extra_and_reshaped_keys_are_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    w = families.weights(FAMILIES[name].shapes(10))
    arch = name.partition(" ")[0]
    params = {"dead_block": True} if "dead" in name else {"final_norm": False} if "bare" in name else {}
    lost = next(k for k in reversed(w) if k.endswith("running_var") and not k.startswith("sub_block1"))
    faults = {
        rf"missing {re.escape(lost)}; unexpected nothing": {k: v for k, v in w.items() if k != lost},
        r"missing nothing; unexpected attention\.weight": {**w, "attention.weight": torch.ones(1)},
        rf"{re.escape(lost)} is \[5\] in the weights": {**w, lost: torch.ones(5)},
    }
    for sentence, content in faults.items():
        path = put(tmp_path / "w.pt", content)
        with pytest.raises(UserError, match=sentence):
            teacher(path, arch, **params)
        with pytest.raises(UserError, match="no known architecture has weights named"):
            teacher(path)
    with pytest.raises(UserError, match="has 100 classes, the run's data has 10"):
        teacher(put(tmp_path / "w.pt", families.weights(FAMILIES[name].shapes(100))))


# ---- normalisation that the file holds ----------------------------------------------------------------------
MEAN, STD = map(vector, IMAGE_STD)
BUFFERS: dict[str, Callable[[Weights], Any]] = {
    "RobustBench's classes": lambda w: {**w, "mu": MEAN[None], "sigma": STD[None]},
    "behind a module": lambda w: prefixed({**w, "mean": MEAN, "std": STD}, "module."),
    "wrapped": lambda w: {**prefixed(w, "model."), "normalize.mean": MEAN.flatten(), "normalize.std": STD.flatten()},
    "a sequence": lambda w: prefixed({**prefixed(w, "1."), "0.mean": MEAN, "0.std": STD}, "module."),
}


@pytest.mark.parametrize("form", BUFFERS)
@pytest.mark.parametrize("name", ["preact-rn-18 bare", "wrn-10-2 dead", "resnet-14", "preact-rn-18-swish"])
def test_a_normalisation_in_the_file_goes_inside_the_teacher(name: str, form: str, tmp_path: Path) -> None:
    w = families.weights(FAMILIES[name].shapes(10))
    check(teacher(put(tmp_path / "w.pt", BUFFERS[form](w))), FAMILIES[name], w, IMAGE_STD)


def test_half_a_normalisation_and_one_number_for_all_channels(tmp_path: Path) -> None:
    w = families.weights(FAMILIES["resnet-14"].shapes(10))
    path = put(tmp_path / "w.pt", {**w, "mean": torch.tensor(0.5)})
    check(teacher(path), FAMILIES["resnet-14"], w, ([0.5] * 3, [1.0] * 3))


@pytest.mark.parametrize(
    "buffers",
    [
        {"std": torch.zeros(3)},
        {"mean": torch.full((2,), 0.5), "std": torch.ones(2)},
        {"mean": torch.full((3,), 0.5), "mu": torch.full((3,), 0.4)},
        {"normalize.scale": torch.full((3,), 0.5)},
    ],
    ids=["no spread", "other channels", "two means", "unknown"],
)
def test_a_normalisation_that_makes_no_sense_is_refused(buffers: Weights, tmp_path: Path) -> None:
    w = families.weights(FAMILIES["resnet-14"].shapes(10))
    with pytest.raises(UserError, match="normalises its input"):
        teacher(put(tmp_path / "w.pt", w | buffers))


class Inside(nn.Module):
    """A plugin's network, say, that normalises by buffers of its own names."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mu", torch.zeros(3, 1, 1))
        self.register_buffer("sigma", torch.ones(3, 1, 1))


def test_a_network_that_has_these_buffers_itself_is_left_alone() -> None:
    network, w = Inside(), {"mu": MEAN, "sigma": STD}
    assert as_the_weights(network, w, 3) == (network, w)
    assert as_the_weights(network, {}, 3) == (network, {})


# ---- normalisation that the user says -----------------------------------------------------------------------
@pytest.mark.parametrize("said, statistics", [("cifar10-image-std", IMAGE_STD), ("cifar10", C10), ("half", HALF)])
@pytest.mark.parametrize("prefix", ["", "module.1."])
def test_a_normalisation_that_the_file_lacks_is_said(said: str, statistics: Any, prefix: str, tmp_path: Path) -> None:
    """chenyaofo's ResNets were trained behind one; HAT's `--normalize` leaves constants before the second part."""
    for name in ("resnet-14", "wrn-10-2 dead"):
        w = families.weights(FAMILIES[name].shapes(10))
        path = put(tmp_path / "w.pt", prefixed(w, prefix))
        check(teacher(path, name.partition(" ")[0], normalisation=said), FAMILIES[name], w, statistics)


def test_the_second_part_of_a_sequence_alone_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    w = families.weights(FAMILIES["resnet-14"].shapes(10))
    path = put(tmp_path / "w.pt", prefixed(w, "module.1."))
    with pytest.raises(UserError, match=r"second part of a sequence.*--set teachers\.robust\.normalisation=cifar10"):
        teacher(path)
    check(teacher(path, "resnet-14", normalisation="none"), FAMILIES["resnet-14"], w)


def test_what_the_keys_do_not_show_can_be_said(tmp_path: Path) -> None:
    """kuangliu's PreActResNet-18 has no last BatchNorm and projects what is activated."""
    w = families.weights(FAMILIES["preact-rn-18 bare"].shapes(10))
    path = put(tmp_path / "w.pt", w)
    x = torch.rand(2, 3, 16, 16)
    raw, activated = teacher(path)(x), teacher(path, "preact-rn-18", projection="activated")(x)
    assert not torch.allclose(raw, activated, atol=1e-3)
    torch.testing.assert_close(teacher(path, "preact-rn-18", projection="raw")(x), raw)


@pytest.mark.parametrize("depth", [2, 18, 55])
def test_an_impossible_depth_of_a_cifar_resnet(depth: int) -> None:
    build = REGISTRY.build("model", f"resnet-{depth}", {"depth": depth})
    with pytest.raises(UserError, match=rf"6n \+ 2 layers .*not {depth}; the wide one of 18 is rn-18"):
        build(num_classes=10, in_channels=3)


def test_every_architecture_that_is_recognised_has_its_family_here_and_in_the_table() -> None:
    """But for digits-net, which nobody else publishes."""
    page = (Path(__file__).parents[1] / "docs" / "data-and-models.md").read_text(encoding="utf-8")
    table = page.partition("| published by |")[2].partition("\n\n")[0]
    told = [re.findall(r"`([^`]+)`", row.split(" | ")[1])[0] for row in table.splitlines()[2:]]
    recognised = {name for name, model in REGISTRY.units("model").items() if model.recognise} - {"digits-net"}
    assert set(told) == recognised
    built = {name.partition(" ")[0] for name in FAMILIES}
    assert all(any(name == b or match_template(name, b) is not None for b in built) for name in recognised)
