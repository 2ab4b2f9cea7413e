"""Teachers by name and data set: what a name means, what is on record, what is listed."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robustdistill import vetting
from robustdistill.builtin.published import TEACHERS
from robustdistill.cli import main
from robustdistill.cli.references import references
from robustdistill.errors import PluginError, UserError
from robustdistill.located import locate_teacher
from robustdistill.naming import called, dataset_of, registered
from robustdistill.plugins import Plugin
from robustdistill.registry import Registry, default_registry
from robustdistill.report.numbers import radius
from robustdistill.resolve import resolve
from robustdistill.spec import Node
from robustdistill.types import Teacher

REGISTRY = default_registry()


def with_teachers(**more: Teacher) -> Registry:
    return Registry([*REGISTRY.plugins, Plugin("x", "stranger", "2", {"register_teachers": more})])


def resolved(teacher: str, data: str | None = None, registry: Registry = REGISTRY) -> tuple[str, str]:
    spec = resolve([{"teacher": teacher} | ({"data": data} if data else {})], registry)
    return spec.teachers["robust"].name, spec.data.name


# ---- names --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "data", "meant"),
    [
        ("wrn-34-10", None, ("wrn-34-10", "cifar10")),
        ("Zhang2019Theoretically", None, ("wrn-34-10", "cifar10")),
        ("rn-18", None, ("rn-18", "cifar10")),
        ("wrn-70-16", "cifar10", ("wrn-70-16", "cifar10")),
        ("wrn-70-16", "cifar100", ("wrn-70-16-swish", "cifar100")),
        ("wrn-70-16-swish", None, ("wrn-70-16-swish", "cifar100")),
        ("Gowal2020Uncovering", None, ("wrn-70-16-swish", "cifar100")),
        ("Wang2023Better_WRN-28-10", "cifar100", ("wrn-28-10-c100", "cifar100")),
        ("Chen2021LTD_WRN34_10", "cifar10", ("ltd-34-10-c10", "cifar10")),
        # A file goes with an architecture where NAME is one, else with the teacher's own.
        ("wrn-34-10@file.pt", None, ("wrn-34-10@file.pt", "cifar10")),
        ("wrn-70-16@file.pt", "cifar100", ("wrn-70-16@file.pt", "cifar100")),
        ("Wang2023Better_WRN-28-10@file.pt", "cifar10", ("wrn-28-10-c10@file.pt", "cifar10")),
        ("file.pt", None, ("file.pt", "digits")),
    ],
)
def test_a_name_and_a_data_set_mean_one_teacher(name: str, data: str | None, meant: tuple[str, str]) -> None:
    assert resolved(name, data) == meant


@pytest.mark.parametrize("name", ["wrn-70-16", "Wang2023Better_WRN-28-10", "wrn-70-16@file.pt", "dajat"])
def test_a_name_that_means_two_asks_for_the_data_set(name: str) -> None:
    with pytest.raises(
        UserError, match=r"is a teacher for cifar10 .* and cifar100 .*--data cifar10 or --data cifar100"
    ):
        resolved(name)


def test_teachers_that_are_named_together_settle_it() -> None:
    spec = resolve([{"teachers": {"clean": "Wang2023Better_WRN-28-10", "robust": "wrn-34-10"}}], REGISTRY)
    assert (spec.teachers["clean"].name, spec.data.name) == ("wrn-28-10-c10", "cifar10")
    assert dataset_of(["digits-robust", "wrn-70-16-swish"], REGISTRY) == "digits"  # refused later, by name
    assert dataset_of(["file.pt", "no-such"], REGISTRY) is None


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("wrn-34-10", "cifar100", "was trained on cifar10; the run's data is cifar100; another network of that arch"),
        ("Rade2021Helper_R18_ddpm", "cifar100", "'Rade2021Helper_R18_ddpm' was trained on cifar10; the run's data"),
        ("wrn-70-16", "digits", "was trained on cifar10 and cifar100; the run's data is digits"),
        ("wrn-16-4", "cifar10", "is an architecture, not a trained teacher: give its file, wrn-16-4@FILE"),
        ("Wang2023Beter_WRN-28-10", "cifar10", "did you mean 'Wang2023Better_WRN-28-10'?"),
    ],
)
def test_other_names_are_refused(name: str, data: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        locate_teacher(Node(name=registered(name, data, REGISTRY)), REGISTRY, data)
    assert sentence in str(raised.value)


def test_a_registered_name_goes_before_a_further_one() -> None:
    mine = Teacher("wrn-28-10", Path("mine.pt"), "cifar10")
    registry = with_teachers(**{"wrn-28-10": mine, "svhn": replace(mine, dataset="svhn", names=("wrn-34-10",))})
    assert called("wrn-28-10", registry) == {"cifar10": "wrn-28-10", "cifar100": "wrn-28-10-c100"}
    assert called("wrn-34-10", registry) == {"cifar10": "wrn-34-10", "svhn": "svhn"}


def test_two_teachers_that_are_called_alike_are_told_apart() -> None:
    registry = with_teachers(other=Teacher("rn-18", Path("x.pt"), "cifar10", names=("dajat",)))
    with pytest.raises(
        PluginError, match=r"'dajat' means two teachers for cifar10: 'dajat-c10' of .* 'other' of strang"
    ):
        called("dajat", registry)
    assert resolved("dajat-c10", registry=registry) == ("dajat-c10", "cifar10")


def test_the_figure_of_a_file_is_that_of_its_name_and_network() -> None:
    def clean(name: str, data: str) -> float | None:
        return vetting.stated(resolve([{"teacher": name, "data": data}], REGISTRY), "robust", REGISTRY)

    assert clean("wrn-70-16", "cifar100") == clean("Gowal2020Uncovering@file.pt", "cifar100") == 0.6086
    assert clean("wrn-70-16-swish@file.pt", "cifar100") == 0.6086
    assert clean("wrn-70-16@file.pt", "cifar100") is None  # TRADES' network, not DeepMind's
    assert clean("Wang2023Better_WRN-28-10@file.pt", "cifar10") == 0.9244


def test_results_are_held_against_the_record_whatever_name_was_given() -> None:
    spec = resolve([{"teacher": "Gowal2020Uncovering", "method": "mmard"}], REGISTRY)
    known = references(spec, REGISTRY)
    assert known.accuracies == {"clean": 0.6086, "aa": 0.3003}
    assert known.paper is not None


# ---- what is on record --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TEACHERS)
def test_the_record_of_a_published_teacher_is_complete(name: str) -> None:
    t = TEACHERS[name]
    assert re.fullmatch("[a-z0-9-]+", name)
    assert t.clean is not None
    assert 0.2 < t.robust["aa"] < t.clean < 1
    assert t.eps in (0.031, 8 / 255)
    assert t.licence in ("MIT", "Apache 2.0")
    assert t.paper.count("https://") == 1
    assert t.sources
    assert all(re.match(r"https://|hf:[\w-]+/[\w-]+/\S+\.pt", source) for source in t.sources)
    assert ("mean" in t.preprocessing) is ("swish" in t.model)
    assert any(re.match(r"[A-Z][a-z]+20\d\d[A-Z]", n) for n in t.names)  # RobustBench's


def test_no_address_is_anothers() -> None:
    addresses = [source for t in TEACHERS.values() for source in t.sources]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize(
    ("name", "figures"),
    [  # MMARD's Table 2, as RobustBench has it
        ("Zhang2019Theoretically", (0.8492, 0.5308, "0.031")),
        ("Addepalli2021Towards_RN18", (0.8024, 0.5106, "8/255")),
        ("Cui2020Learnable_34_20", (0.8870, 0.5357, "0.031")),
        ("Jia2022LAS-AT_70_16", (0.8566, 0.5761, "8/255")),
        ("Gowal2020Uncovering", (0.6086, 0.3003, "8/255")),
    ],
)
def test_the_teachers_of_table_2(name: str, figures: tuple[float, float, str]) -> None:
    [key] = called(name, REGISTRY).values()
    t: Teacher = REGISTRY.get("teacher", key)
    assert (t.clean, t.robust["aa"], radius(t.eps)) == figures


# ---- list and explain ---------------------------------------------------------------------------------------
def shown(capsys: pytest.CaptureFixture[str], *call: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*call])
    assert ended.value.code == 0
    return capsys.readouterr().out


def listed(capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shown(capsys, "list", "teachers", *more, "--json").splitlines()]


def test_list_teachers_shows_figures_sizes_and_what_is_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    out = shown(capsys, "list", "teachers")
    assert re.search(r"^wrn-34-10 +wrn-34-10 +cifar10 +MIT +no +84\.92 +53\.08 +0\.031 +~185$", out, re.M)
    assert re.search(r"^digits-robust +digits-net +digits +- +yes +98\.33 +- +0\.2 +0\.2$", out, re.M)
    file = tmp_path / "robustdistill" / "teachers" / "wrn-34-10-cifar10.pt"
    file.parent.mkdir(parents=True)
    with file.open("wb") as sparse:
        sparse.truncate(193_000_000)
    out = shown(capsys, "list", "teachers", "wrn-34-10")
    assert re.search(r"^wrn-34-10 +wrn-34-10 +cifar10 +MIT +yes +84\.92 +53\.08 +0\.031 +193$", out, re.M)


def test_a_pattern_finds_further_names_and_json_tells_all(capsys: pytest.CaptureFixture[str]) -> None:
    ten, hundred = listed(capsys, "Wang2023*")
    assert (ten["name"], hundred["name"]) == ("wrn-28-10-c10", "wrn-28-10-c100")
    assert ten["sources"][0].startswith("hf:wzekai99/")
    assert {k: ten[k] for k in ("dataset", "clean", "robust", "here", "size", "sha256", "parameters")} == {
        "dataset": "cifar10",
        "clean": 0.9244,
        "robust": {"aa": 0.6731},
        "here": None,
        "size": None,
        "sha256": "",
        "parameters": 36_479_194,
    }


def test_a_further_name_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "explain", "Cui2020Learnable_34_20")
    assert "clean 88.70, aa 53.57 % at eps 0.031" in out
    assert "Table 2 of MMARD states AA 53.26" in out
    assert out.count("https://drive.usercontent.google.com/download?id=1y7BUxPhQjNlb4w4BUlDyYJIS4w4fsGiS") == 1
