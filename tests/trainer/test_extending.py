"""A run that is changed between two parts of its training: what was trained stays, and what comes follows the new run.

python -m pytest tests/trainer/test_extending.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeRun
from tests.support.streams import one_line
from tests.support.training import events, hash_again, make_trainer, snapshot, train_until
from trainer_client.trainer.config import CheckpointConfig, TrainConfig
from tst_data.dataset.reader import Dataset
from tst_data.errors import ForeignDataError, InvalidInputError
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run

pytestmark = pytest.mark.slow

BAGS = {"bag_size": 4, "steps": 12}


@pytest.fixture
def config(config: TrainConfig) -> TrainConfig:
    """Checkpoints every ten steps, and a warm-up that does not depend on the length of the run."""
    changes = {"checkpoint": CheckpointConfig(every=10), "evaluation": None, "warmup_steps": 2}
    return config.model_copy(update=changes)


@pytest.fixture
def write(make_run: MakeRun, tiny_dataset: Dataset) -> Any:
    """`write(phase, ...)` writes the run file again, with other phases."""
    return lambda *phases, **changes: make_run(tiny_dataset, phases=list(phases), **changes)


def fingerprint(run: Path) -> str:
    with Plan(load_run(run)) as plan:
        return plan.fingerprint


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = {"seconds", "tokens_per_second", "data_wait_share"}
    return [{key: value for key, value in record.items() if key not in times} for record in records]


def test_a_run_that_is_extended_after_20_of_30_steps_ends_with_the_bits_of_a_run_of_50(
    write: Any, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, undisturbed = tmp_path / "extended", tmp_path / "undisturbed"
    run = write(BAGS, {"bag_size": 1, "steps": 18})
    before = fingerprint(run)
    train_until(25, monkeypatch, run, config, output)
    write(BAGS, {"bag_size": 1, "steps": 38})
    report = make_trainer(run, config, output, show_progress=True).run()
    expected = make_trainer(run, config, undisturbed).run()
    assert report.steps == 50
    assert report.digests == expected.digests
    for name in ("model/model.safetensors", "model/config.json"):
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes()
    assert without_times(events(output, "step")) == without_times(events(undisturbed, "step"))
    [start], [resume] = events(output, "start"), events(output, "resume")
    assert (start["fingerprint"], resume["fingerprint_before"]) == (before, before)
    assert (resume["step"], resume["fingerprint"]) == (20, report.fingerprint)
    assert f"the run was changed after step 20: fingerprint {before} before, {report.fingerprint} now" in (
        capsys.readouterr().err
    )


def test_a_finished_run_is_extended_twice_and_renamed(write: Any, config: TrainConfig, tmp_path: Path) -> None:
    """The learning rate has decayed by then, so the weights are those of no undisturbed run. The data is."""
    output = tmp_path / "output"
    run = write(BAGS)
    make_trainer(run, config, output).run()
    assert json.loads((output / "report.json").read_text())["steps"] == 12
    write(BAGS, {"bag_size": 1, "steps": 3})
    make_trainer(run, config, output).run()
    run = write(BAGS, {"bag_size": 1, "steps": 3}, {"bag_size": 2, "steps": 5}, name="renamed")
    report = make_trainer(run, config, output).run()
    assert report.digests == make_trainer(run, config, tmp_path / "undisturbed").run().digests
    assert json.loads((output / "report.json").read_text())["fingerprint"] == report.fingerprint == fingerprint(run)
    assert [record["step"] for record in events(output, "step")] == list(range(20))
    assert [record["step"] for record in events(output, "switch")] == [12, 15]
    assert [record["step"] for record in events(output, "resume")] == [12, 15]


def test_a_change_takes_effect_only_with_the_next_checkpoint(
    write: Any, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a change and before the next checkpoint, it may be changed once more."""
    output = tmp_path / "output"
    run = write(BAGS)
    train_until(11, monkeypatch, run, config, output)
    for steps in (15, 12, 14):
        write({**BAGS, "steps": steps})
        train_until(11, monkeypatch, run, config, output)
    report = make_trainer(run, config, output).run()
    assert report.digests == make_trainer(run, config, tmp_path / "undisturbed").run().digests


def test_an_extended_run_keeps_the_default_warm_up_that_it_began_with(
    write: Any, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default it is a tenth of the run: 2 of 20 steps, and it would be 4 of 40."""
    config = config.model_copy(update={"warmup_steps": None})
    run = write(BAGS, {"bag_size": 1, "steps": 8})
    train_until(11, monkeypatch, run, config, tmp_path / "output")
    write(BAGS, {"bag_size": 1, "steps": 28})
    make_trainer(run, config, tmp_path / "output").run()
    rates = [record["learning_rate"] for record in events(tmp_path / "output", "step")]
    assert rates[:3] == [config.learning_rate / 2, config.learning_rate, config.learning_rate]
    assert rates[35] == config.learning_rate
    make_trainer(run, config, tmp_path / "output").close()


@pytest.mark.parametrize(
    ("phases", "changes"),
    [
        ([{**BAGS, "steps": 9}, {"bag_size": 1, "steps": 3}], {}),
        ([{**BAGS, "bag_size": 3}], {}),
        ([BAGS], {"seed": 18}),
        ([BAGS], {"shuffle_group": 2}),
    ],
)
def test_a_run_that_was_changed_before_the_checkpoint_is_refused(
    phases: list[dict[str, Any]],
    changes: dict[str, Any],
    write: Any,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "output"
    run = write(BAGS)
    before = fingerprint(run)
    train_until(11, monkeypatch, run, config, output)
    saved = snapshot(output)
    write(*phases, **changes)
    with pytest.raises(ForeignDataError) as caught:
        make_trainer(run, config, output, accept_changes=True)
    one_line(caught.value, "step-00000010': belongs to", before, fingerprint(run), "or choose another --output")
    assert snapshot(output) == saved


def test_a_run_that_now_ends_before_the_checkpoint_is_refused(
    write: Any, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(BAGS)
    train_until(11, monkeypatch, run, config, tmp_path / "output")
    write({**BAGS, "steps": 9})
    with pytest.raises(InvalidInputError) as caught:
        make_trainer(run, config, tmp_path / "output")
    one_line(caught.value, "step-00000010': is at step 10, past the end of run 'test'", "has 9 steps", "--output")
    write({**BAGS, "steps": 10})
    assert make_trainer(run, config, tmp_path / "output").run().steps == 10


def test_a_checkpoint_of_order_version_1_is_refused_by_name(
    write: Any, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(BAGS)
    train_until(11, monkeypatch, run, config, tmp_path / "output")
    path = tmp_path / "output" / "checkpoints" / "step-00000010" / "checkpoint.json"
    content = json.loads(path.read_text())
    content["stream"] = {"version": 1, "fingerprint": "0" * 64, "next_step": 10}
    path.write_text(json.dumps(content))
    hash_again(path)
    with pytest.raises(ForeignDataError) as caught:
        make_trainer(run, config, tmp_path / "output")
    one_line(
        caught.value,
        "step-00000010': was drawn in order version 1, but this version of the package draws in order version 2",
        "finish that training with the version that began it",
        "--output",
    )
