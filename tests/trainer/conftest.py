"""Fixtures of the trainer's tests: a run at a server that misbehaves on demand, and a training of twelve steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeRun
from tests.support.fault_server import FaultServer
from tests.support.streams import prefetch_threads
from tests.support.training import MODEL, STEPS, SWITCH, Trained, make_trainer, train_until
from trainer_client.trainer.config import CheckpointConfig, EvaluationConfig, TrainConfig
from tst_data.dataset.reader import Dataset
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run


@pytest.fixture
def run_file(make_run: MakeRun, tiny_dataset: Dataset) -> Path:
    return make_run(tiny_dataset, phases=[{"bag_size": 4, "steps": SWITCH}, {"bag_size": 1, "steps": STEPS - SWITCH}])


@pytest.fixture
def config(tiny_dataset: Dataset) -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        device="cpu",
        log_every=1,
        threads=1,
        evaluation=EvaluationConfig(dataset=str(tiny_dataset.path), every=4, windows=9),
        checkpoint=CheckpointConfig(every=4, keep=2),
    )


@pytest.fixture
def trained(run_file: Path, config: TrainConfig, tmp_path: Path) -> Trained:
    output = tmp_path / "output"
    trainer = make_trainer(run_file, config, output)
    return Trained(trainer, trainer.run(), output)


@pytest.fixture
def checkpointed(run_file: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder with a checkpoint of step 4."""
    train_until(5, monkeypatch, run_file, config, tmp_path / "checkpointed")
    return tmp_path / "checkpointed"


# A run at a server of the tests

HTTP_STEPS = 6


def open_plan(dataset: Dataset, make_run: MakeRun, **settings: Any) -> Plan:
    """The plan of a run of six steps, three of them with bags."""
    phases = [{"bag_size": 4, "steps": 3}, {"bag_size": 1, "steps": HTTP_STEPS - 3}]
    return Plan(load_run(make_run(dataset, **{"batch_size": 8, "phases": phases, **settings})))


@pytest.fixture
def server(tiny_dataset: Dataset, make_run: MakeRun) -> Iterator[FaultServer]:
    with open_plan(tiny_dataset, make_run) as plan, FaultServer(plan) as server:
        yield server


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    yield
    assert prefetch_threads() == []
