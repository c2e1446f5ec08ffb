"""Fixtures of the trainer's tests: a training of twelve steps, six of them with bags."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeRun
from tests.support.training import MODEL, STEPS, SWITCH, Trained, make_trainer, train_until
from trainer_client.trainer.config import CheckpointConfig, EvaluationConfig, TrainConfig
from tst_data.dataset.reader import Dataset


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
