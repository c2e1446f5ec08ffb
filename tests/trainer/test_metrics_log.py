"""The file of metrics after a restart. python -m pytest tests/trainer/test_metrics_log.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer_client.trainer.metrics_log import keep_until, read_metrics
from tst_data.errors import DamagedDataError


def test_metrics_after_the_checkpoint_are_dropped_and_half_a_line_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records = [
        {"event": "step", "step": 6},
        {"event": "evaluation", "step": 7},
        {"event": "checkpoint", "step": 7},
        {"event": "switch", "step": 7},
        {"event": "step", "step": 7},
        {"event": "evaluation", "step": 8},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"event": "st')
    assert read_metrics(path) == records
    assert keep_until(records, 7) == records[:3]
    assert read_metrics(tmp_path / "none") == []
    path.write_text('{"event": "step", "step": 6}\nno record\n')
    with pytest.raises(DamagedDataError, match=r"metrics\.jsonl': has a line that is not a record: 'no record'"):
        read_metrics(path)
