"""Follows a `metrics.jsonl` while its trainer writes it, through restarts of the trainer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["MetricsTail"]


class MetricsTail:
    """The records of a metrics file so far. A trainer that resumes replaces the file; then all of it is read again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        self._place = (-1, 0)  # inode, bytes read

    def read(self) -> list[dict[str, Any]]:
        """The records that came since the last call. A line that is still being written waits for the next call."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            status = _status(file.fileno())
            if status[0] != self._place[0] or status[1] < self._place[1]:
                self._place = (status[0], 0)
                self.records = []
            file.seek(self._place[1])
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._place = (self._place[0], self._place[1] + len(whole))
        fresh = [json.loads(line) for line in whole.splitlines()]
        self.records.extend(fresh)
        return fresh

    @property
    def next_step(self) -> int:
        """The number of steps that are recorded as done."""
        return next((record["step"] + 1 for record in reversed(self.records) if record["event"] == "step"), 0)

    def latest(self, event: str) -> dict[str, Any] | None:
        """The newest record of an event."""
        return next((record for record in reversed(self.records) if record["event"] == event), None)


def _status(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_ino, status.st_size
