"""One server over two runs, for all modules of this folder that do not need a server of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import write_run
from tests.support.serving import Server, running
from tst_data.dataset.reader import Dataset

BATCHES = "/v1/runs/test/batches"
"""The path of the batches of `run_file`."""


@pytest.fixture(scope="package")
def run_file(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Dataset) -> Path:
    """The run `test`: 3 steps of superposition, 4 of recovery, 12 sequences a step. `other` is in the same folder."""
    folder = tmp_path_factory.mktemp("runs")
    phases = [{"bag_size": 4, "steps": 3}, {"bag_size": 1, "steps": 4}]
    for name in ("other", "test"):
        path = write_run(tiny_dataset, folder=folder, name=name, batch_size=12, phases=phases)
    return path


@pytest.fixture(scope="package")
def server(run_file: Path) -> Iterator[Server]:
    """A server over the folder of `run_file`."""
    with running(run_file.parent) as server:
        yield server
