"""Names that nobody knows: the sentence is short, and says what was meant where that can be known."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from robustdistill import plugins
from robustdistill.builtin.models import timm_networks
from robustdistill.errors import UserError, nearest
from robustdistill.hints import SHIPPED
from robustdistill.registry import KINDS, Registry
from robustdistill.resolve import resolve

ROOT = Path(__file__).parents[1]
BUILT_IN = Registry([plugins._builtin(name) for name in plugins.DEFAULT_PLUGINS])  # whatever else is installed


def refused(layer: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        resolve([layer], BUILT_IN)
    return str(error.value)


def test_of_a_thousand_names_ten_are_told_and_the_command_for_all() -> None:
    with pytest.raises(UserError) as error:
        timm_networks.build(num_classes=10, in_channels=3, image_size=32, network="resnet81")
    assert len(str(error.value)) < 300
    shape = r"; did you mean 'resnet\w+'\? Nearest of [\d,]+: (.*); all: robustdistill list models 'timm:\*'\."
    told = re.search(shape, str(error.value))
    assert told
    assert len(told[1].split(", ")) == 10
    assert "resnet18" in told[1]


def test_a_few_names_are_all_told_and_none_of_them_twice() -> None:
    assert nearest("x", ["beta", "alpha", "beta"]) == ". Known: alpha, beta."
    known = str(BUILT_IN.unknown("teacher", "nothing")).partition("Known: ")[2].partition(". ")[0].split(", ")
    assert len(known) == len(set(known)) > 10


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ({"method": "MMARD"}, "unknown method 'MMARD'; did you mean 'mmard'?"),
        ({"data": "CIFAR10"}, "unknown dataset 'CIFAR10'; did you mean 'cifar10'?"),
        ({"select": {"attack": "autoattack"}}, "unknown attack 'autoattack'; did you mean 'aa'?"),
        ({"lr": 0.1}, "unknown key 'lr'; did you mean 'optim.lr'?"),
        ({"milestones": [1]}, "unknown key 'milestones'; did you mean 'schedule.milestones'?"),
    ],
)
def test_what_is_nearly_right_is_told_as_it_should_be(layer: dict[str, Any], sentence: str) -> None:
    assert sentence in refused(layer)


def test_a_path_as_a_data_set_is_told_its_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("good", "hub"):
        Path(folder).mkdir()
    Path("hub/train-0.parquet").touch()
    Path("own.npz").touch()
    assert "unknown dataset 'good', which is a folder: write imagefolder:good." in refused({"data": "good"})
    assert "unknown dataset 'hub', which is a folder: write parquet:hub." in refused({"data": "hub"})
    assert "unknown dataset 'own.npz', which is a file: write npz:own.npz." in refused({"data": "own.npz"})


# ---- the packages of plugins/ -----------------------------------------------------------------------------
def registered(folder: Path) -> dict[str, set[str]]:
    """The names that a package's hooks return, each with its kinds."""
    entries = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]["robustdistill"]
    found: dict[str, set[str]] = {}
    for module in entries.values():
        spec = importlib.util.spec_from_file_location(module, folder / f"{module}.py")
        assert spec
        assert spec.loader
        loaded = sys.modules[module] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
        spec.loader.exec_module(loaded)
        provides = plugins._provides(module, loaded)
        for kind, hook in KINDS.items():
            for name in provides.get(hook, ()):
                found.setdefault(name, set()).add(kind)
    return found


def test_the_table_of_packages_is_what_their_hooks_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    names = {}
    for folder in (ROOT / "plugins").glob("robustdistill-*"):
        short = folder.name.removeprefix("robustdistill-")
        assert (ROOT / "docs" / "plugins" / f"{short}.md").is_file()
        names |= {name: (short, kinds) for name, kinds in registered(folder).items()}
    assert {name: (package, set(kinds)) for name, (package, kinds) in SHIPPED.items()} == names


@pytest.mark.parametrize("name", SHIPPED)
def test_a_name_of_a_package_that_is_not_in_use_is_told_the_package(name: str) -> None:
    package, kinds = SHIPPED[name]
    for kind in kinds:
        told = str(BUILT_IN.unknown(kind, name))
        assert f"unknown {kind} {name!r}; the {kind} {name!r} is in the package robustdistill-{package}, " in told
        assert f"docs/plugins/{package}.md" in told
        assert "did you mean" not in told


def test_a_package_s_name_in_another_place_is_told_its_kind() -> None:
    assert "; the modifier 'igdm' is in the package robustdistill-igdm" in refused({"method": "IGDM"})


def test_dir_shows_what_is_imported_when_first_used() -> None:
    missing = "print(*sorted(set(rd.__all__) - set(dir(rd))))"
    listed = f"import sys, robustdistill as rd; {missing}; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
