"""The studies of the paper: they resolve, share what is the same run, and find the paper's numbers."""

import functools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from robustdistill import assemble
from robustdistill.cli.references import references
from robustdistill.registry import default_registry
from robustdistill.report.published import Published
from robustdistill.spec import RunSpec
from robustdistill.study import cost as costs
from robustdistill.study.cost import cost
from robustdistill.study.items import Item, items
from robustdistill.study.plan import Study, load_study

FOLDER = Path(__file__).parents[1] / "specs" / "paper"
FILES = sorted(FOLDER.glob("*.toml"))
EVERY = [(path.stem, profile) for path in FILES for profile in ("", *load_study(path).profiles)]
MINIS = [name for name, profile in EVERY if profile == "mini"]
REGISTRY = default_registry()
ALL_ATTACKS = ("fgsm", "pgd", "pgd-trades", "cw", "aa")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a study asks the network before it starts")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@functools.cache
def study(name: str, profile: str = "") -> Study:
    return load_study(FOLDER / f"{name}.toml", profile)


@functools.cache
def found(name: str, profile: str = "") -> tuple[Item, ...]:
    return tuple(items(study(name, profile), REGISTRY))


def ids(name: str, profile: str = "", **places: str) -> list[str]:
    return [i.id for i in found(name, profile) if all(i.places[axis] == place for axis, place in places.items())]


def test_every_table_has_its_study() -> None:
    tables = {"table2", "table3", "table4", "table5", "table6", "table7", "figure4"}
    assert {p.stem for p in FILES} == tables | {"table5-teachers", "clean-teachers"}
    assert tables | {"table5-teachers"} == set(MINIS)
    assert {n for n, profile in EVERY if profile == "jpeg"} == tables - {"table4", "figure4"} | {"clean-teachers"}
    assert all(study(path.stem).name == path.stem for path in FILES)


@pytest.mark.parametrize(("name", "profile"), EVERY)
def test_every_combination_is_a_run_of_its_own(name: str, profile: str) -> None:
    own = found(name, profile)
    assert own
    assert len({item.id for item in own}) == len(own)
    assert study(name, profile).about


def test_what_a_cpu_judges_of_the_jpeg_teachers_are_those_of_table_2() -> None:
    path = FOLDER.parent / "jpeg" / "teachers.toml"
    of_table = {item.places["target"]: item for item in found("table2", "jpeg")}
    for profile in ("", *load_study(path).profiles):
        own = items(load_study(path, profile), REGISTRY)
        assert own
        assert all((i.target, i.data) == (of_table[n].target, of_table[n].data) for i in own for n in i.places.values())


@pytest.mark.parametrize(
    ("name", "profile", "runs"),
    [
        ("table2", "", 5),
        ("table3", "", 8 * 2 * 3),
        ("table4", "", 8 * 2 * 3),
        ("table5", "", 2 * 3 * 4 * 3),
        ("table6", "", 3 * 2 * 3),
        ("table7", "", 4 * 3),
        ("figure4", "", 3 * 3),
        ("table3", "mini", 8 * 3),
        ("table5", "mini", 3 * 4 * 3),
        ("table5", "jpeg", 3 * 2),
    ],
)
def test_tables_have_the_papers_cells(name: str, profile: str, runs: int) -> None:
    assert len(found(name, profile)) == runs


def test_figures_are_drawn_over_what_the_paper_draws_them_over() -> None:
    five, four = study("table5").plot, study("figure4").plot
    assert five is not None
    assert four is not None
    assert (five.x, five.each, five.attack) == ("teacher", "method", "aa")
    assert (four.x, four.kind, four.attack) == ("strategy", "bars", "aa")
    assert study("table3").table.across == study("table4").table.across == ("student",)


# ---- the paper's protocol -----------------------------------------------------------------------------------
PAPER = ["table3", "table4", "table5", "table6", "table7", "figure4"]


@pytest.mark.parametrize("name", PAPER)
def test_the_best_epoch_is_the_papers_and_so_are_radius_and_batches(name: str) -> None:
    for item in found(name):
        spec = item.spec
        assert spec is not None
        assert (spec.select.split, spec.select.attack, spec.select.every, spec.select.n) == (
            "test",
            "pgd-trades",
            1,
            None,
        )
        assert (spec.eps, spec.batch_size, spec.optim.lr) == (pytest.approx(8 / 255), 128, 0.1)
        assert spec.epochs == 50 if name == "table5" else spec.epochs == EPOCHS.get(spec.method, 300)
    assert study(name).judge.attacks == (("aa",) if name == "table5" else ALL_ATTACKS)
    assert study(name).judge.n is None


EPOCHS = {"nature": 100, "sat": 200, "trades": 76}


def test_fifty_epochs_are_read_in_both_ways() -> None:
    def rates(reading: str, method: str) -> list[tuple[str, int, tuple[int, ...]]]:
        specs = [i.spec for i in found("table5") if (i.places["reading"], i.places["method"]) == (reading, method)]
        return [(s.schedule.name, s.span, s.schedule.milestones) for s in specs if s is not None]

    for method, milestones in (("ARD", (100, 150)), ("RSLAD", (215, 260, 285))):
        assert set(rates("50 epochs", method)) == {("cosine", 50, ())}
        assert set(rates("first 50 of 300", method)) == {("multistep", 300, milestones)}
    assert set(rates("first 50 of 300", "MMARD")) == {("cosine", 300, ())}


# ---- one run, one training ----------------------------------------------------------------------------------
def test_what_is_the_same_run_is_trained_once() -> None:
    folders = {study(name, profile).folder for name in MINIS for profile in ["mini"]}
    assert folders == {"paper-mini"}
    assert {study(path.stem).folder for path in FILES} == {"paper"}
    mmard = ids("table3", method="MMARD", student="rn-18")
    assert ids("table7", **{"outer.alpha": "1"}) == ids("figure4", strategy="A: MMARD") == mmard
    assert ids("figure4", strategy="C: without TRD") == ids("table7", **{"outer.alpha": "0"})
    for method in ("ARD", "IAD", "RSLAD"):
        assert ids("table6", method=method, inner="its own") == ids("table3", method=method, student="rn-18")
    assert set(ids("table6", "jpeg", inner="its own")) < set(ids("table3", "jpeg"))
    assert ids("table5", "jpeg", method="MMARD", teacher="WRN-34-10") == ids("table3", "jpeg", method="MMARD")
    assert ids("table4", "mini") == ids("table3", "mini")


@pytest.mark.parametrize(("name", "profile", "data"), [("table3", "", 0), ("table4", "", 1), ("table3", "jpeg", 0)])
def test_mtard_learns_from_the_clean_teacher_that_its_study_makes(name: str, profile: str, data: int) -> None:
    clean = ids("clean-teachers", profile)[data]
    assert clean in ids(name, profile, method="Nature")
    taught = {i.spec.teachers["clean"].name for i in found(name, profile) if i.spec and i.places["method"] == "MTARD"}
    assert taught == {f"rn-18@runs/{study(name, profile).folder}/{clean}"}


def test_the_digits_teachers_of_table5_are_the_runs_of_their_study() -> None:
    taught = dict.fromkeys(i.spec.teachers["robust"].name for i in found("table5", "mini") if i.spec)
    assert list(taught) == [f"runs/paper-mini/{run}" for run in ids("table5-teachers", "mini")]


@pytest.mark.parametrize("name", MINIS)
def test_minis_need_nothing_from_outside(name: str) -> None:
    own = {f"runs/paper-mini/{run}" for run in ids("table5-teachers", "mini")} | {"digits-robust", "digits-clean"}
    for item in found(name, "mini"):
        if item.spec is None:
            assert (item.target in own, (item.data or {}).get("name")) == (True, "digits")
        else:
            assert item.spec.data.name == "digits"
            assert item.spec.select.split == "holdout"
            assert {t.name for t in item.spec.teachers.values()} <= own


# ---- the paper's numbers ------------------------------------------------------------------------------------
def paper(item: Item) -> Published | None:
    """As a run that is done has it: without the teachers that its steps do not read."""
    assert item.spec is not None
    teachers = {role: node for role, node in item.spec.teachers.items() if role in read(item.spec)}
    return references(item.spec.model_copy(update={"teachers": teachers}), REGISTRY).paper


READ: dict[tuple[str, str], tuple[str, ...]] = {}


def read(spec: RunSpec) -> tuple[str, ...]:
    method, inner = spec.method, spec.inner.name
    if (method, inner) not in READ:
        data = REGISTRY.dataset(spec.data.name, spec.data.dir)
        small = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, len(data.classes)))
        READ[method, inner] = assemble.reads_of(spec, small, data, REGISTRY).roles
    return READ[method, inner]


def cells(name: str) -> Iterator[Item]:
    return (item for item in found(name) if item.seed == 0)


@pytest.mark.parametrize("name", ["table3", "table4", "table5", "table6", "table7"])
def test_every_cell_finds_its_number(name: str) -> None:
    seen = {}
    for item in cells(name):
        row = paper(item)
        assert row is not None, item.places
        own = {"table6": item.places.get("inner") == "its own", "table7": item.places.get("outer.alpha") == "1"}
        table = "Table 3" if own.get(name, False) else f"Table {name[-1]}"
        assert row.source.endswith(table)
        seen[item.id] = tuple(sorted(row.accuracies.items()))
    readings = 2 if name == "table5" else 1
    assert len(set(seen.values())) * readings == len(seen)


@pytest.mark.parametrize("name", [name for name, profile in EVERY if profile == "jpeg"])
def test_a_copy_of_the_images_is_not_held_against_the_paper(name: str) -> None:
    assert not study(name, "jpeg").table.paper
    assert "JPEG" in study(name, "jpeg").about


def test_by_their_names_these_runs_would_find_the_papers_numbers() -> None:
    assert all(paper(item) for item in found("table3", "jpeg"))


# ---- cost ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "profile"), [("table2", ""), ("table3", "jpeg"), ("table5", "jpeg"), ("table7", "mini")]
)
def test_costs_are_told_without_files(name: str, profile: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    price = cost(found(name, profile), study(name, profile).judge, REGISTRY)
    assert price.unknown == 0
    assert price.judging > 0
    assert (price.training > 0) is (name != "table2")
    if profile == "jpeg":
        assert price.training / costs.H100.training < 3600


def test_nothing_names_a_place_outside_the_working_folder() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "../" not in text
        assert '"/' not in text
