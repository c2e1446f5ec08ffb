"""What names a source, and what is refused. python -m pytest tests/trainer/test_open_source.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeRun
from trainer_client import BatchStream
from tst_data import Dataset
from tst_data.errors import InvalidInputError, NotFoundError, TSTError

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_a_later_phase_that_cannot_be_shared_out_is_named_at_once(tiny_dataset: Dataset, make_run: MakeRun) -> None:
    phases = [{"bag_size": 2, "steps": 1}, {"bag_size": 1, "steps": 1, "batch_size": 9}]
    with pytest.raises(InvalidInputError, match="phase 1 of run 'test' has batch size 9"):
        BatchStream(make_run(tiny_dataset, batch_size=12, phases=phases), rank=0, world_size=2)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("nowhere/run.yaml", NotFoundError, "'nowhere/run.yaml': does not exist"),
        ("ftp://host/v1/runs/x", InvalidInputError, "unknown scheme 'ftp'"),
        ("http://host:8000", InvalidInputError, "not the URL of a run; give http"),
        ("http://host:8000/v1/runs/", InvalidInputError, "not the URL of a run; give http"),
        ("http://host:99999/v1/runs/x", InvalidInputError, "not a URL"),
        (f"http://{'x' * 70}/v1/runs/x", InvalidInputError, "not a URL"),
        ("http:///v1/runs/x", InvalidInputError, "not the URL of a run; give http"),
        ("http://host/v1/runs/x?rank=1", InvalidInputError, "not the URL of a run; give http"),
        ("http://host/v1/runs/x y", InvalidInputError, "contains a space; give http"),
        (17, InvalidInputError, r"source: expected a run.*given: 17\)"),
        (None, InvalidInputError, r"source: expected a run.*given: null\)"),
    ],
)
def test_what_is_not_a_source_is_refused(given: Any, error: type[TSTError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        BatchStream(given, timeout_seconds=1)
    assert "\n" not in str(caught.value)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidInputError) as caught:
        BatchStream("http://user:hunter2@host/v1/runs/x")
    assert "hunter2" not in str(caught.value)


def test_a_folder_that_is_not_a_materialized_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"has no run\.json"):
        BatchStream(tmp_path)
