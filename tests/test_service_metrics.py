"""Metrics over several worker processes. python -m pytest tests/test_service_metrics.py"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COUNT_ONE = """
from service.metrics import Metrics
Metrics().batches.labels("test").inc()
"""
EXPOSE = """
from service.metrics import Metrics
print(Metrics().exposition().decode())
"""


def run(code: str, folder: Path) -> str:
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(folder), "PATH": ""}
    root = Path(__file__).resolve().parents[1]
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_counts_of_all_processes_are_added_and_a_half_made_file_does_no_harm(tmp_path: Path) -> None:
    run(COUNT_ONE, tmp_path)
    run(COUNT_ONE, tmp_path)
    (tmp_path / "counter_1.db").touch()
    assert 'tst_batches_served_total{run="test"} 2.0' in run(EXPOSE, tmp_path)
