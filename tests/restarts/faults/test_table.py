"""The matrix has no hole: every promise has a test for every fault, which says what happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.restarts.faults.table import FAULTS, PROMISES, cells, fault_sections


@pytest.mark.parametrize("promise", PROMISES)
def test_every_cell_is_a_test_that_says_what_happens(promise: str) -> None:
    what, row = cells(promise)
    assert what
    assert set(row) == set(FAULTS)
    for fault, cell in row.items():
        assert cell.outcome in {"same", "resumes", "waits", "unavailable", "refused"}, fault
        assert cell.text.endswith("."), fault


def test_every_file_of_tests_is_a_row() -> None:
    files = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert files == {*PROMISES, "table"}


def test_the_page_shows_every_cell() -> None:
    page = fault_sections()
    assert sum(page.count(f"| {title} | ") for title in FAULTS.values()) >= len(FAULTS) * len(PROMISES)
