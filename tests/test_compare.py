"""`compare`: what is set side by side, what is bold, and what stands beside it, the teacher's and a paper's numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from robustdistill.cli import main
from robustdistill.cli.comparison import comparison, numbered, record, rows_of, sources
from robustdistill.cli.outcomes import Outcome, by_spec
from robustdistill.cli.references import References, references
from robustdistill.registry import default_registry
from robustdistill.report.published import Published, published
from robustdistill.report.tables import Table, comma_separated, latex, markdown
from robustdistill.resolve import resolve
from robustdistill.spec import RunSpec
from robustdistill.store import rundir

WHOLE = {"data": "digits", "eps": 0.2, "n": 360, "whole": True}
PAPER = {
    "method": "mmard",
    "data": "cifar10",
    "student": "rn-18",
    "teacher": "wrn-34-10",
    "inner": "kl-teacher-adv",
    "outer": "mmard",
    "eps": 8 / 255,
    "epochs": 300,
    "alpha": 1.0,
}


def spec(**layer: Any) -> RunSpec:
    return resolve([{"method": "mmard", "data": "digits", **layer}], default_registry())


def run(name: str, best: dict[str, float], judged: dict[str, Any] | None = None, **layer: Any) -> Outcome:
    facts = {**WHOLE, **judged} if judged is not None else {}
    return Outcome(name, spec(**layer), best, {"clean": best["clean"]}, facts)


def nothing_known(_: RunSpec) -> References:
    return References()


def bold(table: Table) -> set[tuple[str, str]]:
    """The bold cells as (first cell of the row, column)."""
    return {(table.rows[i][0], table.columns[j]) for i, j in table.bold}


# ---- bold ---------------------------------------------------------------------------------------------------
def test_the_best_of_each_column_is_bold_among_like_rows() -> None:
    outcomes = [
        run("a", {"clean": 0.9, "pgd": 0.5, "worst": 0.4}, {}),
        run("b", {"clean": 0.9, "pgd": 0.6, "worst": 0.5}, {}, method="sat"),
        run("c", {"clean": 0.8, "cw": 0.9, "worst": 0.7}, {}, method="trades"),
        run("few", {"clean": 1.0, "pgd": 1.0}, {"whole": False, "n": 20}, method="nature"),
        run("more", {"clean": 0.9, "pgd": 0.9}, {"whole": False, "n": 40}, method="ard"),
        run("other-eps", {"clean": 1.0, "pgd": 1.0}, {"eps": 0.1}, method="rslad"),
    ]
    table = comparison(rows_of(by_spec(outcomes), nothing_known))
    best = {(table.rows[i][0], table.columns[j]) for i, j in table.bold if table.rows[i][4] == "best"}
    assert not {"few", "more", "other-eps"} & {r for r, _ in best}
    assert {c for r, c in best if r == "a"} == {"clean"}  # as high as b's
    assert {c for r, c in best if r == "b"} == {"clean", "pgd", "worst"}
    assert {c for r, c in best if r == "c"} == set()  # alone under cw, and its `worst` is of other attacks


def test_bold_follows_what_is_written() -> None:
    outcomes = [run("a", {"clean": 0.90004}), run("b", {"clean": 0.89996}, method="sat")]
    rows = rows_of(by_spec(outcomes), nothing_known)
    assert {r for r, _ in bold(comparison(rows))} == {"a", "b"}
    _, (_, narrow) = numbered(rows)
    assert {i for i, _ in narrow.bold} == {0, 1, 2, 3}


def test_bold_in_each_format() -> None:
    table = Table(("run", "clean"), (("a", "94.40 ± 0.30"), ("[b", "-0.50")), 1, frozenset({(0, 1)}))
    assert markdown(table).splitlines()[2] == "| a   | **94.40 ± 0.30** |"
    assert latex(table).splitlines()[4:6] == [r"a & \textbf{94.40 $\pm$ 0.30} \\", r"{}[b & $-$0.50 \\"]
    assert comma_separated(table) == "run,clean,clean std\na,94.40,0.30\n[b,-0.50,\n"
    assert "kl $>$ a$<$b\\textbar{}" in latex(Table(("kl > a<b|",), ()))


# ---- teachers -----------------------------------------------------------------------------------------------
def test_a_registered_teacher_is_known_at_the_radius_of_its_record() -> None:
    registry = default_registry()
    record = registry.get("teacher", "digits-robust")
    assert references(spec(), registry) == References("digits-robust", {"clean": record.clean, **record.robust})
    assert references(spec(eps=0.1), registry).accuracies == {"clean": record.clean}
    alone = spec(method="sat").model_copy(update={"teachers": {}})  # as a run that reads none is stored
    assert references(alone, registry) == References()
    mine = references(spec(teachers={"robust": {"name": "digits-net@mine.safetensors"}}), registry)
    assert (mine.teacher, mine.accuracies) == ("digits-net@mine.safetensors", {})


def test_the_difference_to_the_teacher_is_of_the_same_images_and_radius() -> None:
    known = References("t", {"clean": 0.95, "pgd": 0.7})
    best = {"clean": 0.9, "pgd": 0.4, "worst": 0.3}
    rows = rows_of(by_spec([run("a", best, {}), run("b", best, {"eps": 0.1}, method="sat")]), lambda _: known)
    table = comparison(rows)
    assert table.columns[5:] == ("clean", "pgd", "worst", "clean - teacher", "pgd - teacher")
    found = {(row[0], row[4]): row[8:] for row in table.rows}
    assert found == {
        ("a", "best"): ("-5.00", "-30.00"),
        ("a", "last"): ("-5.00", "-"),
        ("b", "best"): ("-", "-"),
        ("b", "last"): ("-5.00", "-"),
    }
    assert sources(rows, lambda _: known) == ["teacher t: as registered"]
    made = record([run("a", best, {})], known)
    assert made["teacher"]["minus"]["best"] == pytest.approx({"clean": -0.05, "pgd": -0.3})


# ---- a paper ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "table", "clean", "aa"),
    [
        ({}, "Table 3", 84.63, 52.50),
        ({"student": "mn-v2"}, "Table 3", 84.26, 51.15),
        ({"data": "cifar100", "teacher": "wrn-70-16-swish"}, "Table 4", 58.42, 27.21),
        ({"epochs": 50}, "Table 5", 83.35, 47.76),
        ({"teacher": "wrn-70-16", "epochs": 50}, "Table 5", 85.09, 47.43),
        ({"method": "rslad", "inner": "kl-teacher", "outer": "rslad"}, "Table 3", 83.38, 51.49),
        ({"method": "rslad", "outer": "rslad"}, "Table 6", 84.38, 51.71),
        ({"alpha": 0.5}, "Table 7", 84.57, 52.17),
        ({"method": "sat", "inner": "ce", "outer": "sat", "teacher": ""}, "Table 3", 83.38, 45.83),
        ({"method": "mtard", "inner": "ce", "outer": "mtard"}, "Table 3", 87.36, None),
    ],
)
def test_a_papers_row_is_found(changes: dict[str, Any], table: str, clean: float, aa: float | None) -> None:
    found = published(PAPER | changes)
    assert found is not None
    assert found.source == f"MMARD, arXiv 2503.06559, {table}"
    assert found.accuracies["clean"] == pytest.approx(clean / 100)
    assert found.accuracies.get("aa") == (pytest.approx(aa / 100) if aa else None)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "digits"},
        {"student": "wrn-16-4"},
        {"teacher": "wrn-70-16"},
        {"teacher": ""},
        {"method": "adaad"},
        {"inner": "ce"},
        {"outer": "rslad"},
        {"alpha": 0.3},
        {"eps": 0.031},
    ],
)
def test_anything_else_is_not_the_papers(changes: dict[str, Any]) -> None:
    assert published(PAPER | changes) is None


def test_a_run_of_the_papers_setting_has_its_numbers_in_columns_of_their_own() -> None:
    layer = {"data": "cifar10", "student": "rn-18", "teachers": {"robust": {"name": "wrn-34-10@file.pt"}}}
    registry = default_registry()
    known = references(spec(**layer), registry)
    assert (known.teacher, known.accuracies) == ("wrn-34-10@file.pt", {})
    assert known.paper == published(PAPER)
    assert references(spec(**layer, **{"with": ["awp"]}), registry).paper is None
    rows = rows_of([[run("a", {"clean": 0.8, "worst": 0.2}, {}, **layer)]], lambda _: known)
    table = comparison(rows)
    assert table.columns[5:] == ("clean", "worst", "clean (paper)")
    assert [row[5:] for row in table.rows] == [("80.00", "20.00", "84.63"), ("80.00", "-", "-")]
    assert [title for title, _ in numbered(rows)][2:] == ["a paper's own numbers, not measured here"]
    assert sources(rows, lambda _: known)[0].startswith("paper: MMARD, arXiv 2503.06559, Table 3; 300 epochs")
    assert isinstance(known.paper, Published)
    assert record(rows[0].group, known)["paper"]["accuracies"]["aa"] == pytest.approx(0.525)


# ---- the command --------------------------------------------------------------------------------------------
def test_compare_prints_the_teachers_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, clean in ((0, 0.9), (1, 0.8)):
        store = rundir.create(tmp_path / f"s{seed}", spec(seed=seed).to_toml(), {})
        tested = {"test": {"n": 360, "clean": clean, "pgd-trades": clean / 2}}
        store.write_result({"best": tested, "last": tested})
    texts = {}
    for form in ("table", "markdown", "csv", "json"):
        with pytest.raises(SystemExit):
            main(["compare", str(tmp_path), "--format", form])
        texts[form] = capsys.readouterr()
    assert "minus the teacher's accuracy on record, in points" in texts["table"].out
    assert "teacher digits-robust: as registered" in texts["table"].out
    assert "| 85.00 ± 7.07 | 42.50 ± 3.54 |          -13.33 |" in texts["markdown"].out
    assert texts["markdown"].err == "note: teacher digits-robust: as registered\n"
    assert ",85.00,7.07,42.50,3.54,-13.33," in texts["csv"].out
    assert json.loads(texts["json"].out)["teacher"]["name"] == "digits-robust"
