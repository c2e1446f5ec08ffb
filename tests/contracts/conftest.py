"""Fixtures of the contract suites: one run at every kind of source.

The suites that take `source` run for a run file, a materialized folder, and a URL of two servers: the one of the tests
and `tst-serve`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.fault_server import FaultServer
from tests.support.serving import running
from tests.support.streams import prefetch_threads
from tst_data import Dataset, Plan, load_run
from tst_data.materialized.writer import materialize

PHASES = [
    {"bag_size": 4, "steps": 3},
    {"bag_size": 3, "steps": 2, "superpose": "input"},
    {"bag_size": 2, "steps": 2, "superpose": "output", "sequence_length": 24},
    {"bag_size": 1, "steps": 4, "batch_size": 24},
]
NUM_STEPS = 11


@pytest.fixture(scope="session")
def run_file(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = {
        "name": "contract",
        "datasets": [{"path": str(tiny_dataset.path)}],
        "sequence_length": 16,
        "batch_size": 12,
        "seed": 3,
        "phases": PHASES,
    }
    path = tmp_path_factory.mktemp("run") / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="session")
def plan(run_file: Path) -> Iterator[Plan]:
    with Plan(load_run(run_file)) as plan:
        yield plan


@pytest.fixture(scope="session")
def sources(run_file: Path, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("materialized") / "out"
    materialize(plan, folder, shard_bytes=10_000)
    with FaultServer(plan) as server, running(run_file) as tst_serve:
        yield {"run file": run_file, "folder": folder, "url": server.url, "tst-serve": tst_serve.run_url}


@pytest.fixture(params=["run file", "folder", "url", "tst-serve"])
def source(request: pytest.FixtureRequest, sources: dict[str, Any]) -> Any:
    return sources[request.param]


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    yield
    assert prefetch_threads() == []
