"""A small training in this process: its model, its two phases, and what a test asks of its output folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from trainer_client.trainer.config import TrainConfig
from trainer_client.trainer.loop import Trainer
from trainer_client.trainer.metrics_log import read_metrics
from trainer_client.trainer.process_group import join_process_group
from trainer_client.trainer.recorder import TrainReport
from tst_data.durable_files import hash_file

MODEL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
SWITCH, STEPS = 6, 12


class Trained(NamedTuple):
    """A training that has ended, for tests that look at its results or continue it in its folder."""

    trainer: Trainer
    report: TrainReport
    output: Path


def make_trainer(
    run: Path, config: TrainConfig, output: Path, *, accept_changes: bool = False, show_progress: bool = False
) -> Trainer:
    with join_process_group(config.device) as group:
        return Trainer(str(run), config, output, group, accept_changes=accept_changes, show_progress=show_progress)


def train_until(step: int, monkeypatch: pytest.MonkeyPatch, run: Path, config: TrainConfig, output: Path) -> None:
    """Train, and end as a killed process would when this step is due."""
    take = Trainer._take

    def limited(self: Trainer, at: int, stop: Any) -> None:
        if at == step:
            raise KeyboardInterrupt
        take(self, at, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take", limited)
        with pytest.raises(KeyboardInterrupt):
            make_trainer(run, config, output).run()


def events(output: Path, event: str) -> list[dict[str, Any]]:
    """The records of one event in the metrics."""
    return [record for record in read_metrics(output / "metrics.jsonl") if record["event"] == event]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path in a folder with its content; None for a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def hash_again(path: Path) -> None:
    """Make a file of a checkpoint that was changed by a test look as if it had been saved like that."""
    hashes = path.parent / "hashes.json"
    hashes.write_text(json.dumps({**json.loads(hashes.read_text()), path.name: hash_file(path)}))
