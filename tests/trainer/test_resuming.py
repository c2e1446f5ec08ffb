"""Resuming: the same bits as an undisturbed training, or a refusal that says what differs.

python -m pytest tests/trainer/test_resuming.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.training import (
    MODEL,
    STEPS,
    SWITCH,
    Trained,
    events,
    hash_again,
    make_trainer,
    snapshot,
    train_until,
)
from trainer_client.stream.batch_stream import BatchStream
from trainer_client.trainer.config import TrainConfig
from trainer_client.trainer.learning_rate import default_warmup_steps
from trainer_client.trainer.signals import StoppedError
from tst_data.errors import DamagedDataError, InvalidInputError

pytestmark = pytest.mark.slow


def test_resuming_anywhere_gives_the_same_bits(
    trained: Trained, run_file: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, report, undisturbed = trained
    output = tmp_path / "resumed"
    for last in (5, SWITCH, 9):
        train_until(last, monkeypatch, run_file, config, output)
    assert make_trainer(run_file, config, output).run().digests == report.digests
    for name in ("model/model.safetensors", "model/config.json"):
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes()
    for event in ("step", "evaluation", "switch", "checkpoint"):
        times = {"seconds", "tokens_per_second", "data_wait_share"}
        records, expected = (
            [{key: value for key, value in record.items() if key not in times} for record in events(folder, event)]
            for folder in (output, undisturbed)
        )
        assert records == expected
    assert [record["step"] for record in events(output, "resume")] == [4, 8]


@pytest.mark.parametrize(("step", "micro_batch", "saved"), [(0, 0, []), (4, 1, [4]), (7, 0, [4, 7]), (9, 1, [8, 9])])
def test_asked_to_stop_while_it_waits_for_a_batch_it_stops_at_once_and_loses_nothing(
    step: int,
    micro_batch: int,
    saved: list[int],
    run_file: Path,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config.model_copy(update={"micro_batches": 2, "model": {**MODEL, "attention_dropout": 0.2}})
    expected = make_trainer(run_file, config, tmp_path / "undisturbed")
    report = expected.run()
    receive = BatchStream._receive

    def stalled(self: BatchStream, position: int) -> Any:
        if position == 2 * step + micro_batch:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
            pytest.fail("the wait did not end")
        return receive(self, position)

    output = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(BatchStream, "_receive", stalled)
        with pytest.raises(StoppedError, match=f"while waiting for step {step} of {STEPS}"):
            make_trainer(run_file, config, output).run()
    assert [int(path.name[5:]) for path in sorted(output.glob("checkpoints/*"))] == saved
    resumed = make_trainer(run_file, config, output)
    assert resumed.run().digests == report.digests
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected.model.state_dict()[key])
    assert [record["step"] for record in events(output, "step")] == list(range(STEPS))
    checkpoints = [record["step"] for record in events(output, "checkpoint")]
    assert checkpoints == sorted({*checkpoints, *saved})


def test_asked_to_stop_when_the_batch_has_just_come_it_loses_nothing(
    trained: Trained, run_file: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, report, undisturbed = trained
    deliver = BatchStream._deliver

    def delivered(self: BatchStream, batch: Any, num_bytes: int) -> None:
        deliver(self, batch, num_bytes)
        if batch.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    output = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(BatchStream, "_deliver", delivered)
        with pytest.raises(StoppedError, match="step 7"):
            make_trainer(run_file, config, output).run()
    assert (output / "checkpoints" / "step-00000007").is_dir()
    assert make_trainer(run_file, config, output).run().digests == report.digests
    weights = "model/model.safetensors"
    assert (output / weights).read_bytes() == (undisturbed / weights).read_bytes()


def test_finished_training_only_reports_again(trained: Trained, run_file: Path, config: TrainConfig) -> None:
    _, report, output = trained
    (output / "model" / "README.md").write_text("a model card")
    before = snapshot(output / "model")
    again = make_trainer(run_file, config, output).run()
    assert (again.held_out_loss, again.digests) == (report.held_out_loss, report.digests)
    assert snapshot(output / "model") == before


def test_model_is_written_again_where_the_last_steps_were_taken_again(
    trained: Trained, run_file: Path, config: TrainConfig
) -> None:
    _, _, output = trained
    before = (output / "model" / "model.safetensors").read_bytes()
    (output / "model" / "model.safetensors").write_bytes(b"of another end")
    shutil.rmtree(output / "checkpoints" / f"step-{STEPS:08d}")
    make_trainer(run_file, config, output).run()
    assert (output / "model" / "model.safetensors").read_bytes() == before


def test_another_model_in_the_output_folder_is_refused_by_key(
    trained: Trained, run_file: Path, config: TrainConfig
) -> None:
    _, _, output = trained
    wider = config.model_copy(update={"model": {**MODEL, "intermediate_size": 64}})
    with pytest.raises(InvalidInputError, match="its model has intermediate_size 48, but the configuration has 64"):
        make_trainer(run_file, wider, output)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("learning_rate", 0.5, r"learning_rate 0\.001, but the configuration has 0\.5; .* --accept-changes"),
        ("betas", (0.9, 0.99), r"betas \[0\.9, 0\.95\], but the configuration has \[0\.9, 0\.99\]"),
        ("epsilon", 1e-6, "epsilon"),
        ("weight_decay", 0.0, "weight_decay"),
        ("max_grad_norm", None, r"max_grad_norm 1\.0, but the configuration has null"),
        ("warmup_steps", 3, "warmup_steps 1, but the configuration has 3"),
        ("decay_fraction", 0.5, "decay_fraction"),
        ("slot_weights", "power", "slot_weights 'uniform', but the configuration has 'power'"),
        ("seed", 9, "seed 0, but the configuration has 9"),
    ],
)
def test_other_hyperparameters_than_the_checkpoint_has_are_refused_by_key(
    key: str, value: Any, words: str, checkpointed: Path, run_file: Path, config: TrainConfig
) -> None:
    changed = config.model_copy(update={key: value})
    with pytest.raises(InvalidInputError, match=words):
        make_trainer(run_file, changed, checkpointed)
    make_trainer(run_file, changed, checkpointed, accept_changes=True).close()


def test_what_does_not_change_the_updates_may_be_changed(
    checkpointed: Path, run_file: Path, config: TrainConfig
) -> None:
    changes = {
        "micro_batches": 2,
        "log_every": 5,
        "prefetch": 0,
        "timeout_seconds": 5.0,
        "evaluation": None,
        "slot_weights": "uniform",  # the meaning of null
        "warmup_steps": default_warmup_steps(STEPS),
        "checkpoint": config.checkpoint.model_copy(update={"every": 3}),
    }
    make_trainer(run_file, config.model_copy(update=changes), checkpointed).close()


def test_accepted_changes_are_those_of_the_next_checkpoint(
    run_file: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    train_until(9, monkeypatch, run_file, config, output)
    lower = config.model_copy(update={"learning_rate": 5e-4})
    make_trainer(run_file, lower, output, accept_changes=True).run()
    make_trainer(run_file, lower, output).close()
    assert events(output, "step")[8]["learning_rate"] == pytest.approx(5e-4)


def test_a_flipped_bit_in_a_checkpoint_is_found(trained: Trained, run_file: Path, config: TrainConfig) -> None:
    _, _, output = trained
    folder = output / "checkpoints" / f"step-{STEPS:08d}"
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:])
        with pytest.raises(DamagedDataError, match=f"{path.name}|hashes"):
            make_trainer(run_file, config, output)
        path.write_bytes(whole)
    make_trainer(run_file, config, output).close()


def test_checkpoint_without_hyperparameters_is_resumed(checkpointed: Path, run_file: Path, config: TrainConfig) -> None:
    path = checkpointed / "checkpoints" / "step-00000004" / "checkpoint.json"
    content = json.loads(path.read_text())
    del content["hyperparameters"]
    path.write_text(json.dumps({**content, "schedule": {"total_steps": STEPS}}))
    hash_again(path)
    make_trainer(run_file, config, checkpointed).close()


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "checkpoint.json"])
def test_damaged_checkpoint_is_named_with_the_remedy(
    name: str, trained: Trained, run_file: Path, config: TrainConfig
) -> None:
    _, _, output = trained
    path = output / "checkpoints" / f"step-{STEPS:08d}" / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedDataError, match=f"{name}': is not what was saved; remove .*to resume from 'step-"):
        make_trainer(run_file, config, output)


def test_checkpoint_with_pickled_objects_is_not_loaded(trained: Trained, run_file: Path, config: TrainConfig) -> None:
    _, _, output = trained
    path = output / "checkpoints" / f"step-{STEPS:08d}" / "training.pt"
    torch.save({"optimizer": Path("anything"), "random": {}}, path)
    hash_again(path)
    with pytest.raises(DamagedDataError, match=r"training\.pt.*[Ww]eights.only"):
        make_trainer(run_file, config, output)
