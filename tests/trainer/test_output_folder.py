"""The output folder: only files of this training, and one process at a time.

python -m pytest tests/trainer/test_output_folder.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import MakeRun
from tests.support.training import STEPS, SWITCH, Trained, events, make_trainer, snapshot
from trainer_client.trainer.config import TrainConfig
from tst_data.dataset.writer import write_dataset
from tst_data.errors import ForeignDataError, InvalidInputError, TSTError
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run


def test_other_data_in_the_output_folder_are_refused_with_both_fingerprints(
    trained: Trained, make_run: MakeRun, config: TrainConfig, tmp_path: Path
) -> None:
    _, report, output = trained
    other = tmp_path / "other-data"
    documents = [np.arange(200, dtype=np.uint16)] * 40
    write_dataset(
        other, documents, vocabulary_size=256, end_of_text_id=255, sample_tokens=64, shard_tokens=4096
    ).close()
    run = make_run(other, phases=[{"bag_size": 4, "steps": SWITCH}, {"bag_size": 1, "steps": STEPS - SWITCH}])
    plan = Plan(load_run(run))
    with pytest.raises(ForeignDataError) as caught:
        make_trainer(run, config, output)
    assert report.fingerprint in str(caught.value)
    assert plan.fingerprint in str(caught.value)
    plan.close()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"model/notes.txt": "mine"}, "has 'model' and no checkpoint of this training"),
        ({"notes.txt": "mine"}, "has 'notes.txt'"),
        (
            {"metrics.jsonl": '{"event": "start", "step": 0, "fingerprint": "0123"}\n'},
            "fingerprint 0123, but this run has",
        ),
        ({"metrics.jsonl": "loss 3.2\n"}, "fingerprint unknown"),
        ({"metrics.jsonl": "OURS", "notes.txt": "mine"}, "has 'notes.txt'"),
        ({"metrics.jsonl": "OURS", "model/model.safetensors": "weights"}, "has 'model'"),
        ({"metrics.jsonl": "OURS", "checkpoints/best/model": "weights"}, "has 'checkpoints/best'"),
        ({"report.json": '{"fingerprint": "0123"}'}, "fingerprint 0123, but this run has"),
        ({"report.json": "OURS"}, "has 'report.json'"),
        ({"tensorboard/events.1": "curves"}, "has 'tensorboard'"),
    ],
)
def test_output_folder_with_anything_else_is_refused_and_left_as_it_is(
    files: dict[str, str], words: str, run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    with Plan(load_run(run_file)) as plan:
        ours = json.dumps({"event": "start", "step": 0, "fingerprint": plan.fingerprint}) + "\n"
    output = tmp_path / "output"
    for name, content in files.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(ours if content == "OURS" else content)
    before = snapshot(output)
    with pytest.raises(TSTError, match=words) as caught:
        make_trainer(run_file, config, output)
    assert "\n" not in str(caught.value)
    assert snapshot(output) == before


def test_results_of_other_data_beside_a_checkpoint_are_refused(
    checkpointed: Path, run_file: Path, config: TrainConfig
) -> None:
    (checkpointed / "metrics.jsonl").write_text('{"event": "start", "step": 0, "fingerprint": "0123"}\n')
    with pytest.raises(ForeignDataError, match="fingerprint 0123, but this run has"):
        make_trainer(run_file, config, checkpointed)


def test_output_that_is_a_file_is_refused(run_file: Path, config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "output").touch()
    with pytest.raises(InvalidInputError, match="output': is a file; choose a folder"):
        make_trainer(run_file, config, tmp_path / "output")


@pytest.mark.parametrize(
    "left",
    [
        [],
        ["lock"],
        ["lock", "metrics.jsonl.part"],
        ["lock", "metrics.jsonl", "tensorboard/events.1", "checkpoints/step-00000004.part/model.safetensors"],
    ],
)
def test_training_killed_before_its_first_checkpoint_begins_again(
    left: list[str], run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    for name in left:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).touch()
    assert make_trainer(run_file, config, output).run().steps == STEPS
    assert not list(output.rglob("*.part"))
    assert len(events(output, "start")) == 1


def test_second_training_in_the_same_folder_is_refused_while_the_first_runs(
    run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "output"
    first = make_trainer(run_file, config, output)
    with pytest.raises(InvalidInputError, match=r"output': another process is training into it; wait for it"):
        make_trainer(run_file, config, output)
    first.run()
    assert not (output / "lock").exists()
    make_trainer(run_file, config, output).close()


def test_output_folder_made_for_a_training_that_is_not_run_is_removed(
    run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    make_trainer(run_file, config, tmp_path / "new" / "output").close()
    assert not (tmp_path / "new").exists()
