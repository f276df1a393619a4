"""The benchmark: both sides compute the same, and rows hold medians of alternating turns."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/ is not part of the package

from benchmarks import payloads
from benchmarks.case import Case, measure


def test_a_row_compares_results_and_times():
    order = []

    def side(name, seconds):
        def run():
            order.append(name)
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass
            return name

        return run

    def check(ours, theirs):
        assert (ours, theirs) == ("ours", "theirs")
        return "equal"

    row = measure(Case("s", "w", "p", side("ours", 0.002), side("theirs", 0.01), check, side("floor", 0.001)), turns=3)
    assert order == ["ours", "theirs", "floor"] * 4
    assert row.results == "equal" and 3 < row.ratio < 6
    assert row.floor is not None and 0.3 < row.floor / row.ours < 0.7


def test_results_that_differ_have_no_row():
    def check(ours, theirs):
        assert ours == theirs
        return "equal"

    with pytest.raises(AssertionError):
        measure(Case("s", "w", "p", lambda: 1, lambda: 2, check), turns=1)


def test_payloads_are_compared():
    rows = [measure(case, turns=1) for case in payloads.cases()]
    assert len(rows) == 2 * len(payloads.SHAPES) and all(row.ours > 0 and row.theirs > 0 for row in rows)
