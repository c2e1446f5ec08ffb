"""How a stream of any source is opened: options, and the coordinates of the process.

python -m pytest tests/contracts/test_stream_options.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.streams import same_as_plan
from trainer_client import BatchStream
from tst_data import Plan
from tst_data.errors import InvalidInputError

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "world_size": 2}, r"rank: expected 0 to 1 for world_size 2 \(given: 2\)"),
        ({"rank": -1}, r"rank: expected 0 to 0 .*given: -1"),
        ({"rank": "0"}, r"rank: expected a whole number \(given: '0'\)"),
        ({"world_size": 0}, r"world_size: expected at least 1 \(given: 0\)"),
        ({"world_size": 5}, "phase 0 .* batch size 12"),
        ({"rank": 0, "world_size": 24}, "phase 0 .* batch size 12"),
        ({"micro_batches": 0}, r"micro_batches: expected at least 1 \(given: 0\)"),
        ({"micro_batches": 5}, "micro_batches 5"),
        ({"micro_batches": 4, "world_size": 2}, "world_size 2 x micro_batches 4 = 8"),
        ({"start_step": -1}, r"start_step: expected at least 0 \(given: -1\)"),
        ({"start_step": 12}, "start_step: 12 is past the end .* 0 to 11"),
        ({"start_step": 1.0}, r"start_step: expected a whole number \(given: 1\.0\)"),
        ({"prefetch": -1}, r"prefetch: expected at least 0 \(given: -1\)"),
        ({"prefetch": True}, r"prefetch: expected a whole number \(given: true\)"),
        ({"timeout_seconds": 0}, r"timeout_seconds: expected seconds, more than 0 \(given: 0\)"),
        ({"timeout_seconds": -5}, r"timeout_seconds: .*given: -5"),
        ({"timeout_seconds": float("nan")}, r"timeout_seconds: .*given: nan"),
        ({"timeout_seconds": "9"}, r"timeout_seconds: .*given: '9'"),
        ({"device": "gpu0"}, r"device: .*given: 'gpu0'"),
    ],
)
def test_bad_options_are_refused_in_one_line(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        BatchStream(source, **options)
    assert "\n" not in str(caught.value)


def test_coordinates_come_from_the_environment(source: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with BatchStream(source) as stream:
        assert same_as_plan(next(stream), plan, 2, 3)
    with BatchStream(source, rank=0, world_size=1) as stream:
        assert same_as_plan(next(stream), plan)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InvalidInputError, match=r"RANK: expected a whole number \(given: 'first'\)"):
        BatchStream(source)


def test_coordinates_come_from_torch_distributed_first(
    source: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with BatchStream(source) as stream:
            assert (stream.rank, stream.world_size) == (0, 1)
    finally:
        torch.distributed.destroy_process_group()
