"""Metrics over several worker processes. python -m pytest tests/server/test_metrics.py"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.metrics import metrics_folder

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
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_folders_of_killed_servers_are_removed_and_those_of_running_servers_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, starting, other = (tmp_path / name for name in ("tst-serve-metrics-1", "tst-serve-metrics-2", "else"))
    for folder in (left, starting, other):
        folder.mkdir()
        (folder / "counter_1.db").touch()
    for folder in (left, other):
        (folder / "lock").touch()
    with metrics_folder() as first, metrics_folder() as second:
        assert first != second
        assert set(tmp_path.iterdir()) == {first, second, starting, other}
    assert set(tmp_path.iterdir()) == {starting, other}


@pytest.mark.slow
def test_counts_of_all_processes_are_added_and_an_empty_file_does_no_harm(tmp_path: Path) -> None:
    run(COUNT_ONE, tmp_path)
    run(COUNT_ONE, tmp_path)
    (tmp_path / "counter_1.db").touch()
    assert 'tst_batches_served_total{run="test"} 2.0' in run(EXPOSE, tmp_path)
