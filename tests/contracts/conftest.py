"""Fixtures of the contract suites: one run, and runs that were made from it by a change, at every kind of source.

The suites that take `source` run for a run file, a materialized folder, and a URL of two servers: the one of the tests
and `tst-serve`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.fault_server import FaultServer
from tests.support.serving import running
from tests.support.streams import prefetch_threads
from tst_data import Dataset, Plan, load_run
from tst_data.materialized.writer import materialize

PHASES: list[dict[str, Any]] = [
    {"bag_size": 4, "steps": 3},
    {"bag_size": 3, "steps": 2, "superpose": "input"},
    {"bag_size": 2, "steps": 2, "superpose": "output", "sequence_length": 24},
    {"bag_size": 1, "steps": 4, "batch_size": 24},
]
NUM_STEPS = 11


KINDS = ["run file", "folder", "url", "tst-serve"]

CHANGES: dict[str, dict[str, Any]] = {
    "contract": {},
    "extended": {"phases": [*PHASES[:-1], {**PHASES[-1], "steps": 7}, {"bag_size": 2, "steps": 2}]},
    "earlier": {"phases": [*PHASES[:1], {**PHASES[1], "steps": 1}, *PHASES[2:]]},
    "shorter": {"phases": PHASES[:2]},
    "reseeded": {"seed": 4},
}
"""The run, and what a later change made of it."""


@pytest.fixture(scope="session")
def run_files(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("run")
    for name, change in CHANGES.items():
        content = {
            "name": name,
            "datasets": [{"path": str(tiny_dataset.path)}],
            "sequence_length": 16,
            "batch_size": 12,
            "seed": 3,
            "phases": PHASES,
            **change,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return {name: folder / f"{name}.yaml" for name in CHANGES}


@pytest.fixture(scope="session")
def plans(run_files: dict[str, Path]) -> Iterator[dict[str, Plan]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(Plan(load_run(path))) for name, path in run_files.items()}


@pytest.fixture(scope="session")
def run_file(run_files: dict[str, Path]) -> Path:
    return run_files["contract"]


@pytest.fixture(scope="session")
def plan(plans: dict[str, Plan]) -> Plan:
    return plans["contract"]


@pytest.fixture(scope="session")
def all_sources(
    run_files: dict[str, Path], plans: dict[str, Plan], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, dict[str, Any]]]:
    """By kind of source and name of the run."""
    folder = tmp_path_factory.mktemp("materialized")
    for name, plan in plans.items():
        materialize(plan, folder / name, shard_bytes=10_000)
    with ExitStack() as stack:
        tst_serve = stack.enter_context(running(*run_files.values()))
        yield {
            "run file": {**run_files},
            "folder": {name: folder / name for name in plans},
            "url": {name: stack.enter_context(FaultServer(plan)).url for name, plan in plans.items()},
            "tst-serve": {run["name"]: run["url"] for run in tst_serve.ready["runs"]},
        }


@pytest.fixture(scope="session")
def sources(all_sources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {kind: runs["contract"] for kind, runs in all_sources.items()}


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, sources: dict[str, Any]) -> Any:
    return sources[request.param]


@pytest.fixture(params=KINDS)
def changed(request: pytest.FixtureRequest, all_sources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The run and what was made of it, by name, at one kind of source."""
    return all_sources[request.param]


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    yield
    assert prefetch_threads() == []
