"""Published numbers: each stands in a file of results/, and what no file holds cannot stand in the documentation."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "results").glob("*/*.json"))
DOCUMENTS = (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in DOCUMENTS}
GENERATED = re.compile(r"<!-- generated (\S+) -->\n.*?<!-- /generated -->", re.DOTALL)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
ACCURACY = re.compile(r"(?<![\d.,/])\d\d\.\d\d(?![\d.])")  # two digits behind the point: so accuracies are written
SPREAD = re.compile(r"\d+\.\d+ ± \d+\.\d+")


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import tables
    finally:
        sys.path.remove(str(ROOT / "docs"))
    return tables


def record(path: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return made


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_record_is_flat_and_says_what_it_is_of(path: Path) -> None:
    one = record(path)
    assert not [key for key, value in one.items() if isinstance(value, dict)]
    assert {"study", "row", "n", "eps", "device_name"} <= set(one)
    assert one["study"] == path.parent.name
    assert "command" in one or "specs" in one, "how to measure it again"
    shares = {k: v for k, v in one.items() if k.startswith(("best.", "last.", "accuracy", "student"))}
    assert shares
    assert all(0 <= value <= 1 for value in shares.values() if isinstance(value, float))


def test_rows_of_a_folder_are_in_order() -> None:
    for folder in {path.parent for path in FILES}:
        rows = sorted(record(path)["row"] for path in folder.glob("*.json"))
        assert rows == list(range(len(rows))), folder.name


def test_every_folder_has_its_table_and_every_table_its_place(tables: ModuleType) -> None:
    told = [{**tables.TABLES.get(t.get("like"), {}), **t} for t in tables.TABLES.values()]
    assert {folder for t in told for folder in tables.folders(t)} == {path.parent.name for path in FILES}
    shown = {part for text in PAGES.values() for part in re.findall(r"<!-- generated table-(\S+) -->", text)}
    assert shown == set(tables.TABLES)


@pytest.mark.parametrize("page", PAGES)
def test_no_table_holds_an_accuracy_that_is_not_generated(page: str) -> None:
    text = FENCE.sub("", GENERATED.sub("", PAGES[page]))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert not [row for row in rows if SPREAD.search(row) or ACCURACY.search(row)]


def percentages() -> set[str]:
    """Every share in results/ as it is written in %, differences too."""
    values = [v for path in FILES for v in record(path).values() if isinstance(v, float)]
    return {f"{abs(100 * v):.2f}" for v in values}


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/methods/mmard.md"])
def test_an_accuracy_in_a_sentence_stands_in_a_file(page: str) -> None:
    sentences = FENCE.sub("", GENERATED.sub("", PAGES[page]))
    sentences = "\n".join(line for line in sentences.splitlines() if not line.startswith("|"))
    assert not [number for number in ACCURACY.findall(sentences) if number not in percentages()]


def test_cells_are_written_as_their_columns_ask(tables: ModuleType) -> None:
    one = {"a": 0.5, "a.std": 0.0123, "b": -0.1, "seeds": [0, 1], "n": 1234, "eps": 8 / 255, "ratio": 0.01, "c": 0.125}
    asked = {"a%": "50.00 ± 1.23", "b%+": "-10.00", "c%+": "+12.50", "c%1": "12.5", "seeds": "0, 1", "n": "1,234"}
    asked |= {"eps": "8/255", "ratio": "0.01", "none%": "", "none": "", "none%95": ""}
    asked |= {"c%95": "12.50 (10.8 - 14.5)"}
    assert {key: tables.cell(one, key) for key in asked} == asked


def test_a_changed_record_changes_the_table(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    for path in (ROOT / "results" / "digits").glob("*.json"):
        changed = record(path) | ({"best.clean": 0.1234} if path.stem == "sat" else {})
        (tmp_path / "digits" / path.name).write_text(json.dumps(changed))
    before = tables.made("digits")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    tables.records.cache_clear()
    after = tables.made("digits")
    tables.records.cache_clear()
    assert "12.34" in after
    assert "12.34" not in before
    assert len([1 for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]) == 1
