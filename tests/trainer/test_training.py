"""The reference trainer in one process: what it trains, measures, saves, resumes and refuses."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml

from trainer_client.cli import app
from trainer_client.model.hugging_face import build_config
from trainer_client.model.superposed_lm import SuperposedLM
from trainer_client.stream.batch_stream import BatchStream
from trainer_client.trainer.checkpoint import Checkpoints
from trainer_client.trainer.config import TrainConfig, load_train_config
from trainer_client.trainer.learning_rate import default_warmup_steps, learning_rate_factor
from trainer_client.trainer.loop import Trainer, TrainReport, counted_tokens
from trainer_client.trainer.metrics_log import keep_until, read_metrics
from trainer_client.trainer.optimization import Optimization
from trainer_client.trainer.process_group import joined_ranks
from trainer_client.trainer.signals import StoppedError
from tst_data.command_line import run_app
from tst_data.dataset.reader import Dataset
from tst_data.dataset.writer import write_dataset
from tst_data.errors import DamagedDataError, ForeignDataError, InvalidInputError, NotFoundError, TSTError
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run

MODEL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
SWITCH, STEPS = 6, 12

Train = Callable[..., TrainReport]


@pytest.fixture
def run_file(make_run: Any, tiny_dataset: Dataset) -> Path:
    return make_run(tiny_dataset, phases=[{"bag_size": 4, "steps": SWITCH}, {"bag_size": 1, "steps": STEPS - SWITCH}])


@pytest.fixture
def config(tiny_dataset: Dataset) -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        device="cpu",
        log_every=1,
        threads=1,
        evaluation={"dataset": str(tiny_dataset.path), "every": 4, "windows": 9},
        checkpoint={"every": 4, "keep": 2},
    )


def make_trainer(run: Path, config: TrainConfig, output: Path) -> Trainer:
    with joined_ranks(config.device) as ranks:
        return Trainer(str(run), config, output, ranks)


def events(output: Path, event: str) -> list[dict[str, Any]]:
    return [record for record in read_metrics(output / "metrics.jsonl") if record["event"] == event]


@pytest.fixture
def trained(run_file: Path, config: TrainConfig, tmp_path: Path) -> tuple[Trainer, TrainReport, Path]:
    output = tmp_path / "output"
    trainer = make_trainer(run_file, config, output)
    return trainer, trainer.run(), output


def test_trained_model_opens_with_transformers_and_is_the_one_that_was_trained(trained: Any) -> None:
    trainer, report, output = trained
    opened = transformers.AutoModelForCausalLM.from_pretrained(output / "model")
    assert str(output / "model") == report.model
    expected = trainer.model.state_dict()
    assert {key: value.tolist() for key, value in opened.state_dict().items()} == {
        key: value.tolist() for key, value in expected.items()
    }
    assert opened.config.eos_token_id == 255
    generated = opened.eval().generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert generated.shape[1] <= 7


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


@pytest.fixture
def checkpointed(run_file: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder with a checkpoint of step 4."""
    train_until(5, monkeypatch, run_file, config, tmp_path / "checkpointed")
    return tmp_path / "checkpointed"


def test_bag_losses_and_next_token_losses_are_series_of_their_own(trained: Any) -> None:
    _, _, output = trained
    steps = events(output, "step")
    assert [record["step"] for record in steps] == list(range(STEPS))
    for record in steps:
        bagged = record["step"] < SWITCH
        assert ("bag_loss" in record) == bagged
        assert ("next_token_loss" in record) == (not bagged)
        assert (record["phase"], record["bag_size"]) == ((0, 4) if bagged else (1, 1))
        assert 0 <= record["data_wait_share"] <= 1
        assert record["tokens_per_second"] > 0
    assert [(record["step"], record["bag_size_before"], record["bag_size"]) for record in events(output, "switch")] == [
        (SWITCH, 4, 1)
    ]
    assert list((output / "tensorboard").glob("events.*"))


def test_raw_tokens_and_latent_positions_are_counted_apart(trained: Any) -> None:
    _, report, output = trained
    B, L, s = 4, 16, 4
    steps = events(output, "step")
    assert [record["latent_positions"] for record in steps] == [B * L * (step + 1) for step in range(STEPS)]
    assert steps[SWITCH - 1]["raw_tokens"] == B * L * s * SWITCH
    assert steps[-1]["raw_tokens"] == report.raw_tokens == B * L * (s * SWITCH + STEPS - SWITCH)
    assert report.latent_positions == B * L * STEPS


def test_counted_tokens_are_those_of_the_windows(make_run: Any, tiny_dataset: Dataset) -> None:
    phases = [
        {"bag_size": 3, "steps": 2, "superpose": "output"},
        {"bag_size": 3, "steps": 2, "batch_size": 2, "sequence_length": 8},
        {"bag_size": 1, "steps": 2},
    ]
    plan = Plan(load_run(make_run(tiny_dataset, phases=phases)))
    description = plan.describe()
    tokens = [0]
    for step in range(6):
        batch = plan.read_batch(step)
        tokens.append(tokens[-1] + len(batch.windows) * description.phase(step).geometry.advance)
    assert [counted_tokens(description, steps)[0] for steps in range(7)] == tokens
    assert counted_tokens(description, 6)[0] == description.total_tokens
    plan.close()


def test_evaluation_is_next_token_loss_at_bag_size_1_before_at_and_after_the_switch(
    trained: Any, tiny_dataset: Dataset
) -> None:
    trainer, report, output = trained
    evaluations = events(output, "evaluation")
    assert [record["step"] for record in evaluations] == [0, 4, SWITCH, 8, STEPS]
    assert evaluations[0]["held_out_loss"] == pytest.approx(math.log(256), rel=0.02)
    L = 16
    windows = np.stack([tiny_dataset.read(i * L, L + 1) for i in range(9)]).astype(np.int64)
    with torch.no_grad():
        logits = trainer.model(input_ids=torch.from_numpy(windows[:, :-1])).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(windows[:, 1:]).flatten())
    assert report.held_out_loss == evaluations[-1]["held_out_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_evaluation_drops_nothing_out_and_training_goes_on_doing_so(
    run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    dropping = make_trainer(
        run_file, config.model_copy(update={"model": {**MODEL, "attention_dropout": 0.5}}), tmp_path / "dropping"
    )
    plain = make_trainer(run_file, config, tmp_path / "plain")
    for trainer in (dropping, plain):  # from the same seed: the same weights
        assert trainer._evaluation is not None
        trainer.close()
    superposed = dropping._superposed.train()
    batch = {"inputs": torch.arange(16)[None, :, None], "targets": torch.arange(1, 17)[None, :, None]}
    assert superposed(batch).loss.item() != superposed(batch).loss.item()
    state = torch.get_rng_state()
    losses = [dropping._evaluation.loss(superposed) for _ in range(2)]
    assert losses == [plain._evaluation.loss(plain._superposed)] * 2
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in superposed.modules())
    superposed.eval()
    dropping._evaluation.loss(superposed)
    assert not any(module.training for module in superposed.modules())


def test_nothing_is_reset_at_the_switch(
    run_file: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments go through the switch: each is the decayed one of before plus the step's gradient, and no more."""
    seen: dict[int, tuple[int, int, float, float]] = {}
    step_of_optimizer = Optimization.step

    def watched(self: Optimization, step: int, losses: Any) -> Any:
        result = step_of_optimizer(self, step, losses)
        state = next(iter(self.adamw.state.values()))
        seen[step] = (id(self), int(state["step"]), state["exp_avg_sq"].sum().item(), self.adamw.param_groups[0]["lr"])
        return result

    monkeypatch.setattr(Optimization, "step", watched)
    make_trainer(run_file, config, tmp_path / "output").run()
    assert len({identity for identity, *_ in seen.values()}) == 1
    assert [count for _, count, *_ in seen.values()] == list(range(1, STEPS + 1))
    before, after = seen[SWITCH - 1][2], seen[SWITCH][2]
    assert after >= 0.95 * before > 0
    schedule = {"total_steps": STEPS, "warmup_steps": 1, "decay_fraction": 0.1}
    assert [rate for *_, rate in seen.values()] == [
        pytest.approx(1e-3 * learning_rate_factor(step, **schedule)) for step in range(STEPS)
    ]


def test_resuming_anywhere_gives_the_same_bits(
    trained: Any, run_file: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            pytest.fail("the wait went on")
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
    trained: Any, run_file: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_finished_training_only_reports_again(trained: Any, run_file: Path, config: TrainConfig) -> None:
    _, report, output = trained
    (output / "model" / "README.md").write_text("a model card")
    before = snapshot(output / "model")
    again = make_trainer(run_file, config, output).run()
    assert (again.held_out_loss, again.digests) == (report.held_out_loss, report.digests)
    assert snapshot(output / "model") == before


def test_model_is_written_again_where_the_last_steps_were_taken_again(
    trained: Any, run_file: Path, config: TrainConfig
) -> None:
    _, _, output = trained
    before = (output / "model" / "model.safetensors").read_bytes()
    (output / "model" / "model.safetensors").write_bytes(b"of another end")
    shutil.rmtree(output / "checkpoints" / f"step-{STEPS:08d}")
    make_trainer(run_file, config, output).run()
    assert (output / "model" / "model.safetensors").read_bytes() == before


def test_micro_batches_change_the_loss_by_rounding_only(
    trained: Any, run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    _, _, whole = trained
    parts = tmp_path / "parts"
    make_trainer(run_file, config.model_copy(update={"micro_batches": 4}), parts).run()
    for record, expected in zip(events(parts, "step"), events(whole, "step"), strict=True):
        name = "bag_loss" if "bag_loss" in expected else "next_token_loss"
        assert record[name] == pytest.approx(expected[name], rel=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_qwen3_tied_or_untied_trains_through_both_phases_and_resumes(
    tied: bool, run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    model = {**MODEL, "model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": tied}
    config = config.model_copy(update={"model": model, "slot_weights": "power", "evaluation": None})
    output = tmp_path / "output"
    make_trainer(run_file, config, output).run()
    newest = Checkpoints(output / "checkpoints", 2).newest()
    assert newest is not None
    resumed = make_trainer(run_file, config, output)
    opened = transformers.AutoModelForCausalLM.from_pretrained(output / "model")
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, opened.state_dict()[key])
    resumed.close()
    assert (opened.lm_head.weight is opened.model.embed_tokens.weight) == tied


def test_bfloat16_trains_close_to_float32(trained: Any, run_file: Path, config: TrainConfig, tmp_path: Path) -> None:
    _, _, exact = trained
    half = tmp_path / "half"
    make_trainer(run_file, config.model_copy(update={"precision": "bfloat16"}), half).run()
    records, expected = ([*events(folder, "evaluation")] for folder in (half, exact))
    assert records[-1]["held_out_loss"] == pytest.approx(expected[-1]["held_out_loss"], rel=0.01)
    assert records[-1]["held_out_loss"] != expected[-1]["held_out_loss"]


# --- refusals


def test_other_data_in_the_output_folder_are_refused_with_both_fingerprints(
    trained: Any, make_run: Any, config: TrainConfig, tmp_path: Path
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


def test_another_model_in_the_output_folder_is_refused_by_key(
    trained: Any, run_file: Path, config: TrainConfig
) -> None:
    _, _, output = trained
    wider = config.model_copy(update={"model": {**MODEL, "intermediate_size": 64}})
    with pytest.raises(InvalidInputError, match="intermediate_size 48, the configuration has 64"):
        make_trainer(run_file, wider, output)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("learning_rate", 0.5, r"learning_rate 0\.001, the configuration has 0\.5; .* --accept-changes"),
        ("betas", (0.9, 0.99), r"betas \[0\.9, 0\.95\], the configuration has \[0\.9, 0\.99\]"),
        ("epsilon", 1e-6, "epsilon"),
        ("weight_decay", 0.0, "weight_decay"),
        ("max_grad_norm", None, r"max_grad_norm 1\.0, the configuration has null"),
        ("warmup_steps", 3, "warmup_steps 1, the configuration has 3"),
        ("decay_fraction", 0.5, "decay_fraction"),
        ("slot_weights", "power", 'slot_weights "uniform", the configuration has "power"'),
        ("seed", 9, "seed 0, the configuration has 9"),
    ],
)
def test_other_hyperparameters_than_the_checkpoint_has_are_refused_by_key(
    key: str, value: Any, words: str, checkpointed: Path, run_file: Path, config: TrainConfig
) -> None:
    changed = config.model_copy(update={key: value})
    with pytest.raises(InvalidInputError, match=words):
        make_trainer(run_file, changed, checkpointed)
    with joined_ranks("cpu") as ranks:
        Trainer(str(run_file), changed, checkpointed, ranks, accept_changes=True).close()


def test_what_is_no_change_of_the_updates_may_be_changed(
    checkpointed: Path, run_file: Path, config: TrainConfig
) -> None:
    changes = {
        "micro_batches": 2,
        "log_every": 5,
        "prefetch": 0,
        "timeout_seconds": 5.0,
        "evaluation": None,
        "slot_weights": "uniform",  # what None means
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
    with joined_ranks("cpu") as ranks:
        Trainer(str(run_file), lower, output, ranks, accept_changes=True).run()
    make_trainer(run_file, lower, output).close()
    assert events(output, "step")[8]["learning_rate"] == pytest.approx(5e-4)


def test_checkpoint_that_does_not_say_its_hyperparameters_is_gone_on_with(
    checkpointed: Path, run_file: Path, config: TrainConfig
) -> None:
    path = checkpointed / "checkpoints" / "step-00000004" / "checkpoint.json"
    content = json.loads(path.read_text())
    del content["hyperparameters"]
    path.write_text(json.dumps({**content, "schedule": {"total_steps": STEPS}}))
    make_trainer(run_file, config, checkpointed).close()


# --- the output folder


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"model/notes.txt": "mine"}, "holds 'model' and no checkpoint of this training"),
        ({"notes.txt": "mine"}, "holds 'notes.txt'"),
        ({"metrics.jsonl": '{"event": "start", "step": 0, "fingerprint": "0123"}\n'}, "fingerprint 0123, this run has"),
        ({"metrics.jsonl": "loss 3.2\n"}, "fingerprint unknown"),
        ({"metrics.jsonl": "OURS", "notes.txt": "mine"}, "holds 'notes.txt'"),
        ({"metrics.jsonl": "OURS", "model/model.safetensors": "weights"}, "holds 'model'"),
        ({"metrics.jsonl": "OURS", "checkpoints/best/model": "weights"}, "holds 'checkpoints/best'"),
        ({"report.json": '{"fingerprint": "0123"}'}, "fingerprint 0123, this run has"),
        ({"report.json": "OURS"}, "holds 'report.json'"),
        ({"tensorboard/events.1": "curves"}, "holds 'tensorboard'"),
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
    with pytest.raises(ForeignDataError, match="fingerprint 0123, this run has"):
        make_trainer(run_file, config, checkpointed)


def test_output_that_is_a_file_is_refused(run_file: Path, config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "output").touch()
    with pytest.raises(InvalidInputError, match="is a file; choose a folder"):
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


def test_second_training_in_the_same_folder_is_refused_while_the_first_lives(
    run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "output"
    first = make_trainer(run_file, config, output)
    with pytest.raises(InvalidInputError, match=r"another process is training into .*output'; wait for it"):
        make_trainer(run_file, config, output)
    first.run()
    assert not (output / "lock").exists()
    make_trainer(run_file, config, output).close()


def test_output_folder_made_for_a_training_that_is_not_run_is_taken_away(
    run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    make_trainer(run_file, config, tmp_path / "new" / "output").close()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "checkpoint.json"])
def test_damaged_checkpoint_is_named_with_the_remedy(
    name: str, trained: Any, run_file: Path, config: TrainConfig
) -> None:
    _, _, output = trained
    path = output / "checkpoints" / f"step-{STEPS:08d}" / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedDataError, match=f"{name}' cannot be read .*go on from the checkpoint before it"):
        make_trainer(run_file, config, output)


def test_checkpoint_with_pickled_objects_is_not_loaded(trained: Any, run_file: Path, config: TrainConfig) -> None:
    _, _, output = trained
    torch.save(
        {"optimizer": Path("anything"), "random": {}}, output / "checkpoints" / f"step-{STEPS:08d}" / "training.pt"
    )
    with pytest.raises(DamagedDataError, match=r"training\.pt"):
        make_trainer(run_file, config, output)


def test_loss_that_is_no_number_ends_the_training(
    run_file: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = SuperposedLM.forward

    def broken(self: SuperposedLM, batch: Any) -> Any:
        output = forward(self, batch)
        return output._replace(loss=output.loss * math.nan)

    monkeypatch.setattr(SuperposedLM, "forward", broken)
    with pytest.raises(TSTError, match=r"the loss of step 0 is nan; lower learning_rate .* and begin again$"):
        make_trainer(run_file, config.model_copy(update={"evaluation": None}), tmp_path / "output").run()
    assert not list((tmp_path / "output" / "checkpoints").glob("*"))
    monkeypatch.setattr(SuperposedLM, "forward", forward)
    train_until(5, monkeypatch, run_file, config, tmp_path / "output")
    monkeypatch.setattr(SuperposedLM, "forward", broken)
    with pytest.raises(TSTError, match=r"step 4 is nan; .* go on from the checkpoints in '.*' with --accept-changes"):
        make_trainer(run_file, config, tmp_path / "output").run()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {**MODEL, "hidden_sise": 3}}, "model.hidden_sise is no key of model_type llama"),
        ({"model": {**MODEL, "rope_thetta": 5e5}}, "model.rope_thetta is no key of model_type llama"),
        ({"model": {**MODEL, "hidden_size": "x"}}, "model is no configuration of llama: "),
        ({"model": {**MODEL, "hidden_size": -2}}, "hidden|negative"),
        ({"model": {"model_type": "lama"}}, "model_type 'lama' is not known"),
        ({"model": {**MODEL, "vocab_size": 100}}, "vocab_size is 100, but run 'test' has a vocabulary of 256"),
        ({"model": {**MODEL, "max_position_embeddings": 8}}, "8, but run 'test' has sequences of 16 positions"),
        ({"model": "missing/config.json"}, "no model configuration at 'missing/config.json'"),
        ({"micro_batches": 3}, "batch size 4, which world_size 1 x micro_batches 3"),
        ({"evaluation": {"dataset": "nowhere"}}, "nowhere"),
    ],
)
def test_configuration_that_does_not_fit_the_run_is_refused_before_anything_is_written(
    changes: dict[str, Any], words: str, run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    config = TrainConfig.model_validate({**config.model_dump(), **changes})
    with pytest.raises(TSTError, match=words) as caught:
        make_trainer(run_file, config, tmp_path / "output")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "output").exists()


def test_base_of_the_rotary_positions_is_a_key_in_every_release_of_transformers(run_file: Path) -> None:
    with Plan(load_run(run_file)) as plan:
        made = build_config({**MODEL, "rope_theta": 5e5}, plan.describe()).to_dict()
    assert made.get("rope_parameters", made).get("rope_theta") == 5e5  # transformers 5 keeps it in rope_parameters


def test_evaluation_on_text_of_another_tokenizer_is_refused(
    run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write_dataset(
        other, [[1, 2, 3]] * 20, vocabulary_size=99, end_of_text_id=0, sample_tokens=8, shard_tokens=64
    ).close()
    changed = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"dataset": str(other)})})
    with pytest.raises(InvalidInputError, match="vocabulary_size 99, run 'test' has 256"):
        make_trainer(run_file, changed, tmp_path / "output")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("learnin_rate: 1", "unknown key 'learnin_rate'"),
        ("evaluation: {every: 3}", "'evaluation.dataset' is missing"),
        ("learning_rate: -1", "'learning_rate': expected more than 0"),
        ("checkpoint: {every: 0}", "'checkpoint.every'"),
        ("slot_weights: powr", "'powr' is not known"),
        ("model: {hidden_size: 3}", "expected model_type"),
        ("precision: float8", "'precision'"),
        ("[1, 2]", "expected keys .* found a list"),
        ("a: [", "not valid YAML or JSON"),
        ("seed: 1\nseed: 2", "the key 'seed' appears twice"),
        ("model: {model_type: llama, hidden_size: 32, hidden_size: 64}", "the key 'hidden_size' appears twice"),
        ("[" * 5000, "nested too deeply"),
        ("model: " + "{a: " * 5000, "nested too deeply"),
        ("seed: 2026-13-41", "not valid YAML or JSON"),
    ],
)
def test_wrong_configuration_file_is_refused_in_one_line(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(content)
    with pytest.raises(InvalidInputError, match=words) as caught:
        load_train_config(path)
    assert "\n" not in str(caught.value)
    assert "train.yaml" in str(caught.value)


def test_configuration_is_optional_and_its_paths_are_relative_to_it(tmp_path: Path) -> None:
    assert load_train_config(None) == TrainConfig()
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({"model": "shape.json", "evaluation": {"dataset": "held"}, "output": "out"}))
    config = load_train_config(path)
    assert config.model == str(tmp_path / "shape.json")
    assert config.output == str(tmp_path / "out")
    assert config.evaluation is not None
    assert config.evaluation.dataset == str(tmp_path / "held")
    with pytest.raises(NotFoundError, match=r"training file .*missing\.yaml': does not exist"):
        load_train_config(tmp_path / "missing.yaml")


def test_model_shape_from_a_config_json(run_file: Path, config: TrainConfig, tmp_path: Path) -> None:
    shape = tmp_path / "config.json"
    shape.write_text(json.dumps({**MODEL, "vocab_size": 300, "architectures": ["LlamaForCausalLM"]}))
    trainer = make_trainer(run_file, config.model_copy(update={"model": str(shape)}), tmp_path / "output")
    assert trainer.model.get_input_embeddings().weight.shape == (300, 32)
    trainer.close()


# --- schedule and metrics


def test_schedule_is_one_warm_up_one_plateau_and_one_decay_over_all_steps() -> None:
    factors = [learning_rate_factor(step, total_steps=100, warmup_steps=10, decay_fraction=0.2) for step in range(100)]
    assert factors[:10] == [pytest.approx((step + 1) / 10) for step in range(10)]
    assert factors[10:81] == [1.0] * 71
    assert factors[80:] == [pytest.approx((100 - step) / 20) for step in range(80, 100)]
    assert [default_warmup_steps(steps) for steps in (40, 20_000, 100_000)] == [4, 2_000, 2_000]
    flat = [learning_rate_factor(step, total_steps=5, warmup_steps=0, decay_fraction=0) for step in range(5)]
    assert flat == [1.0] * 5


def test_metrics_behind_the_checkpoint_are_dropped_and_half_a_line_with_them(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records = [
        {"event": "step", "step": 6},
        {"event": "evaluation", "step": 7},
        {"event": "checkpoint", "step": 7},
        {"event": "switch", "step": 7},
        {"event": "step", "step": 7},
        {"event": "evaluation", "step": 8},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"event": "st')
    assert read_metrics(path) == records
    assert keep_until(records, 7) == records[:3]
    assert read_metrics(tmp_path / "none") == []
    path.write_text('{"event": "step", "step": 6}\nno record\n')
    with pytest.raises(DamagedDataError, match=r"metrics\.jsonl' has a line that is no record: 'no record'"):
        read_metrics(path)


# --- command line


def command_line(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run_app(app, [str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_command_line_trains_and_prints_the_report(
    run_file: Path, config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = tmp_path / "train.json", tmp_path / "output"
    file.write_text(config.model_dump_json())
    assert command_line(run_file, "--config", file, "--output", output, "--json") == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report == json.loads((output / "report.json").read_text())
    assert report["steps"] == STEPS
    assert f"step {SWITCH}: bag size 4 -> 1" in captured.err
    assert command_line(run_file, "--config", file, "--output", output) == 0
    captured = capsys.readouterr()
    assert "held out loss" in captured.out
    assert f"resume at step {STEPS} of {STEPS}" in captured.err


def test_command_line_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(tmp_path / "missing.yaml") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "missing.yaml" in captured.err
    assert command_line("--help") == 0
    assert "Example: tst-train http://" in capsys.readouterr().out
