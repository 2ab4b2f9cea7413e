"""What `list models` says: sizes that are known, keys that are there, names that are found."""

import contextlib
import io
import json
import re
from typing import Any

import pytest
import torch

from robustdistill import architectures
from robustdistill.cli.app import command
from robustdistill.errors import UserError
from robustdistill.registry import default_registry

REGISTRY = default_registry()
PUBLISHED = {  # parameters for 10 classes, giga MACs of one image of 3 x 32 x 32; measured on the published classes
    "rn-18": (11_173_962, 0.555),
    "mn-v2": (2_296_922, 0.091),
    "wrn-34-10": (46_160_474, 6.66),
    "wrn-34-20": (184_531_674, 26.6),
    "wrn-70-16-swish": (266_796_506, 38.8),
    "resnet-56": (855_770, 0.127),
    "preact-rn-18": (11_172_170, 0.555),
}


def listed(*arguments: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        command().main(["list", "models", *arguments], standalone_mode=False)
    return out.getvalue()


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    (found,) = architectures.find(REGISTRY, name)
    parameters, giga = PUBLISHED[name]
    assert found.parameters == parameters
    assert found.macs == pytest.approx(giga * 1e9, rel=0.02)


def test_a_family_stands_before_its_examples_and_has_no_size() -> None:
    found = architectures.find(REGISTRY, "wrn-*")
    assert [a.name for a in found][:2] == ["wrn-{depth}-{width}", "wrn-28-10"]
    assert all((a.parameters is None) == (not a.family) == (a.macs is None) for a in found)
    assert {a.family for a in found} == {"", "wrn-{depth}-{width}", "wrn-{depth}-{width}-swish"}


def test_names_of_families_alone_are_found() -> None:
    (found,) = architectures.find(REGISTRY, "wrn-40-2")
    assert (found.family, found.parameters) == ("wrn-{depth}-{width}", 2_243_546)
    names = [a.name for a in architectures.find(REGISTRY, "timm:test_resn*")]
    assert names == ["timm:test_resnet"]
    (vit,) = architectures.find(REGISTRY, "timm:test_vit")
    assert vit.parameters is not None
    assert vit.parameters > 300_000
    with pytest.raises(UserError, match="none of the models is named 'wrn-40'; did you mean"):
        architectures.find(REGISTRY, "wrn-40")
    with pytest.raises(UserError, match=r"none of the models is named 'timm:nix\*'"):
        architectures.find(REGISTRY, "timm:nix*")


def test_what_cannot_be_counted_is_not() -> None:
    (impossible,) = architectures.find(REGISTRY, "wrn-41-2")  # no depth of a Wide ResNet
    assert (impossible.parameters, impossible.macs) == (None, None)
    many = architectures.find(REGISTRY, "timm:*resnet*")
    assert len(many) > architectures.MOST
    assert not any(a.parameters for a in many)


def test_the_list_is_readable_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from robustdistill.cli import render

    monkeypatch.setattr(render, "console", lambda stream: Console(file=stream, width=80, highlight=False))
    out = listed()
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert re.search(r"^wrn-70-16 +266\.8 M +38\.8 G$", out, re.M)
    assert re.search(r"^rn-18 +ResNet-18 with the CIFAR stem +11\.2 M +555\.4 M$", out, re.M)
    assert "counted for 10 classes and one image of 3 x 32 x 32" in out


def test_json_holds_the_full_record() -> None:
    records = [json.loads(line) for line in listed("--json").splitlines()]
    wide = next(r for r in records if r["name"] == "wrn-34-10")
    assert wide["kind"] == "model"
    assert (wide["parameters"], wide["family"]) == (46_160_474, "wrn-{depth}-{width}")
    assert wide["counted_for"] == {"classes": 10, "image": [3, 32, 32]}
    assert all(r["layout"] and r["summary"] and r["from"] for r in records)


def test_a_name_alone_says_what_it_is() -> None:
    assert re.search(r"^wrn-40-2 +Wide ResNet of TRADES +2\.24 M", listed("wrn-40-2"), re.M)


# ---- the layouts are true -------------------------------------------------------------------------------------
def names_of(layout: str) -> list[str]:
    """Each part of a layout as a regular expression of a module's name."""
    parts = re.findall(r"(?:\{[^}]*\}|[^,{])+", layout.replace(" (or none)", ""))
    return [_expression(part.strip()) for part in parts]


def _expression(part: str) -> str:
    def alternatives(found: re.Match[str]) -> str:
        first, dots, last = found[1].partition("..")
        return f"[{first}-{last}]" if dots else f"({'|'.join(re.escape(p.strip()) for p in found[1].split(','))})"

    escaped = re.sub(r"\.(?![^{]*\})", r"\\.", part)
    return re.sub(r"\{([^}]*)\}", alternatives, escaped).replace("N", r"\d+")


EXAMPLES = {a.family or a.name: a.name for a in architectures.find(REGISTRY, None, counted=False) if "{" not in a.name}
ALWAYS = {"preact-rn-18": {"final_norm": True}, "wrn-{depth}-{width}": {"dead_block": True}}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_layout_names_every_key_and_no_other(name: str) -> None:
    params: dict[str, Any] = REGISTRY.params("model", EXAMPLES[name], ALWAYS.get(name, {}), name)
    with torch.device("meta"):
        network = REGISTRY.build("model", EXAMPLES[name], params)(num_classes=10, in_channels=3)
    modules = {k.rpartition(".")[0] for k in network.state_dict()} - {""}  # "": mean and std
    expressions = names_of(REGISTRY.get("model", name).layout)
    if name.startswith("wrn") and "swish" not in name:  # it is a whole group
        expressions = [e if e != "sub_block1" else r"sub_block1\..*" for e in expressions]
    unnamed = [m for m in modules if not any(re.fullmatch(e, m) for e in expressions)]
    unused = [e for e in expressions if not any(re.fullmatch(e, m) for m in modules)]
    assert (unnamed, unused) == ([], [])
