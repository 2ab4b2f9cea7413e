"""Numbers and tables as text."""

import csv
import io

import pytest

from robustdistill.report.numbers import Mean, duration, mean_of, means, percent, spread
from robustdistill.report.tables import Table, comma_separated, latex, markdown

TABLE = Table(
    ("run", "method", "clean", "pgd_t"), (("a|b", "x & y_1", "94.40 ± 0.30", "-"), ("c", "z", "5.00", "7.25")), 2
)


def test_mean_and_sample_deviation() -> None:
    assert mean_of([0.1, 0.2, 0.6]) == Mean(pytest.approx(0.3), pytest.approx(0.07**0.5), 3)
    assert mean_of([0.25]) == Mean(0.25, None, 1)
    assert mean_of([0.1] * 3).std == pytest.approx(0, abs=1e-15)


def test_only_what_every_record_has_is_averaged() -> None:
    assert means([{"a": 1.0, "b": 2.0}, {"b": 4.0, "c": 1.0}]) == {"b": Mean(3.0, pytest.approx(2**0.5), 2)}
    assert means([]) == {}


def test_numbers_as_text() -> None:
    assert (percent(0.5308), percent(1.0, 1), percent(None)) == ("53.08", "100.0", "-")
    assert (spread(Mean(0.944, 0.003, 3)), spread(Mean(0.5, None, 1), 1), spread(None)) == ("94.40 ± 0.30", "50.0", "-")
    assert (duration(7.31), duration(59.97), duration(245), duration(7800)) == (
        "7.3 s",
        "1:00 min",
        "4:05 min",
        "2:10:00 h",
    )


def test_markdown_is_padded_and_escaped() -> None:
    assert markdown(TABLE) == (
        "| run  | method  |        clean | pgd_t |\n"
        "| ---- | ------- | -----------: | ----: |\n"
        "| a\\|b | x & y_1 | 94.40 ± 0.30 |     - |\n"
        "| c    | z       |         5.00 |  7.25 |\n"
    )


def test_csv_holds_plain_numbers() -> None:
    rows = list(csv.reader(io.StringIO(comma_separated(TABLE))))
    assert rows == [
        ["run", "method", "clean", "clean std", "pgd_t"],
        ["a|b", "x & y_1", "94.40", "0.30", ""],
        ["c", "z", "5.00", "", "7.25"],
    ]


def test_latex_escapes_what_latex_reads() -> None:
    lines = latex(TABLE).splitlines()
    assert lines[0] == r"\begin{tabular}{llrr}"
    assert lines[2] == r"run & method & clean & pgd\_t \\"
    assert lines[4] == r"a\textbar{}b & x \& y\_1 & 94.40 $\pm$ 0.30 & - \\"
    assert latex(Table(("~^\\",), ())).splitlines()[2] == r"\textasciitilde{}\textasciicircum{}\textbackslash{} \\"
