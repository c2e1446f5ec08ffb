"""What a training measured: `metrics.jsonl` with one JSON object per line, and the same curves for TensorBoard.

Losses with bags and next-token losses are different series with different names: `bag_loss`, `next_token_loss`, and
`held_out_loss`, which is always next-token loss. `raw_tokens` counts tokens read as input, `latent_positions` the
positions that the model saw; in the superposition phase the first is s times the second.

A line is written whole and flushed. After a restart the lines after the checkpoint are dropped, and then those steps
are taken again, so every step appears once.

`metrics.jsonl` is the record; the curves only show it. A curve that cannot be written does not end a training, a line
that cannot be written does. TensorBoard's own writer works in a thread, opens its file again for every write, and ends
in a stack trace when it cannot; so its records are written here, to a file that stays open.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tst_data.durable_files import write_atomically
from tst_data.errors import DamagedDataError

__all__ = ["MetricsLog", "keep_until", "read_metrics"]

logger = logging.getLogger(__name__)

FILE_NAME = "metrics.jsonl"

CURVES = {
    "next_token_loss": "loss/next_token",
    "bag_loss": "loss/bag",
    "held_out_loss": "held_out/next_token_loss",
    "raw_tokens": "data/raw_tokens",
    "latent_positions": "data/latent_positions",
    "data_wait_share": "data/wait_share",
    "tokens_per_second": "speed/tokens_per_second",
    "learning_rate": "optimizer/learning_rate",
    "grad_norm": "optimizer/grad_norm",
    "bag_size": "data/bag_size",
}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, without a last line that was cut off. Raises DamagedDataError."""
    records = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                records.append(_record(line, path))
    return records


def _record(line: str, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if "event" in record and "step" in record:
            return dict(record)
    except (ValueError, TypeError):
        pass
    raise DamagedDataError(f"'{path}': has a line that is not a record: {line.strip()[:80]!r}; remove the line")


def keep_until(records: list[dict[str, Any]], next_step: int) -> list[dict[str, Any]]:
    """What was measured before a checkpoint with this next step was saved.

    A record of the event `step` has the number of that step; all others have the number of steps done before them. Of
    the records with the step of a checkpoint, evaluation and checkpoint are written before it is saved, others after.
    """
    return [
        record
        for record in records
        if record["step"] < next_step
        or (record["step"] == next_step and record["event"] in ("evaluation", "checkpoint"))
    ]


class MetricsLog:
    """The metrics of one training in its output folder, from `next_step` on. Older records are kept."""

    def __init__(self, folder: Path, next_step: int) -> None:
        path = folder / FILE_NAME
        kept = keep_until(read_metrics(path), next_step) if next_step else []
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = path.open("a", encoding="utf-8")
        self._curves = _Curves(folder / "tensorboard", next_step)

    def write(self, event: str, step: int, **values: Any) -> None:
        """Write one record. It is kept also if this process is killed."""
        self._file.write(json.dumps({"event": event, "step": step, **values}) + "\n")
        self._file.flush()
        self._curves.add(
            step,
            {
                f"{CURVES[key]}_{values['bag_size']}" if key == "bag_loss" else CURVES[key]: value
                for key, value in values.items()
                if key in CURVES
            },
        )

    def close(self) -> None:
        self._file.close()
        self._curves.close()


class _Curves:
    """An event file of TensorBoard. The steps from `next_step` on in older files of the folder no longer count."""

    def __init__(self, folder: Path, next_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        self._path = folder / f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter(self._path.open("wb"))
        self._write(Event(file_version="brain.Event:2"))
        if next_step:
            self._write(Event(step=next_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: dict[str, float]) -> None:
        """One point for each curve."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        if points:
            self._write(Event(step=step, summary=Summary(value=points)))

    def close(self) -> None:
        if not self._records.closed:
            self._records.close()

    def _write(self, event: Any) -> None:
        if self._records.closed:
            return
        event.wall_time = time.time()
        try:
            self._records.write(event.SerializeToString())
            self._records.flush()
        except OSError as error:
            logger.warning(
                "'%s': cannot be written (%s); the curves end here, %s has all values",
                self._path,
                error.strerror,
                FILE_NAME,
            )
            with suppress(OSError):  # what is still in the buffer
                self._records.close()
