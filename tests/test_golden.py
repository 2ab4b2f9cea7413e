"""Refactorings must not move a loss: every curve again, in float64 on one thread."""

import pytest

import golden


@pytest.mark.parametrize("case", golden.CASES)
def test_curve(case: str) -> None:
    assert golden.curve(case) == pytest.approx(golden.read()[case], rel=1e-9)


def test_cases_differ_from_each_other() -> None:
    ends = {round(curve[-1], 9) for curve in golden.read().values()}
    assert len(ends) == len(golden.CASES)
