"""The file of metrics after a restart. python -m pytest tests/trainer/test_metrics_log.py"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from trainer_client.trainer.metrics_log import MetricsLog, keep_until, read_metrics
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


def test_tensorboard_reads_the_curves_and_forgets_steps_that_are_taken_again(tmp_path: Path) -> None:
    first = MetricsLog(tmp_path, 0)
    for step in range(5):
        first.write("step", step, bag_loss=float(step), bag_size=4)
    first.close()
    again = MetricsLog(tmp_path, 3)
    for step in range(3, 6):
        again.write("step", step, bag_loss=10.0 + step, bag_size=4)
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/bag_4")] == [
        (0, 0.0),
        (1, 1.0),
        (2, 2.0),
        (3, 13.0),
        (4, 14.0),
        (5, 15.0),
    ]


def test_curves_that_cannot_be_written_are_a_warning_and_the_record_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = MetricsLog(tmp_path, 0)

    def full(self: RecordWriter, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, "write", full)
    for step in range(3):
        log.write("step", step, next_token_loss=1.0)
    log.close()
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]
    (message,) = caplog.messages
    assert "No space left on device" in message
    assert "metrics.jsonl has all values" in message
