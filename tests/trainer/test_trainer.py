"""The reference trainer in one process: what it trains, counts and measures.

python -m pytest tests/trainer/test_trainer.py
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.conftest import MakeRun
from tests.support.training import MODEL, STEPS, SWITCH, Trained, events, make_trainer, train_until
from trainer_client.model.superposed_lm import SuperposedLM
from trainer_client.trainer.checkpoint import Checkpoints
from trainer_client.trainer.config import TrainConfig
from trainer_client.trainer.learning_rate import learning_rate_factor
from trainer_client.trainer.optimization import Optimization
from trainer_client.trainer.recorder import counted_tokens
from tst_data.dataset.reader import Dataset
from tst_data.errors import TSTError
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run


def test_trained_model_opens_with_transformers_and_is_the_one_that_was_trained(trained: Trained) -> None:
    trainer, report, output = trained
    opened: Any = transformers.AutoModelForCausalLM.from_pretrained(output / "model")
    assert str(output / "model") == report.model
    expected = trainer.model.state_dict()
    assert {key: value.tolist() for key, value in opened.state_dict().items()} == {
        key: value.tolist() for key, value in expected.items()
    }
    assert opened.config.eos_token_id == 255
    generated = opened.eval().generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert generated.shape[1] <= 7


def test_bag_losses_and_next_token_losses_are_separate_series(trained: Trained) -> None:
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


def test_raw_tokens_and_latent_positions_are_counted_separately(trained: Trained) -> None:
    _, report, output = trained
    B, L, s = 4, 16, 4
    steps = events(output, "step")
    assert [record["latent_positions"] for record in steps] == [B * L * (step + 1) for step in range(STEPS)]
    assert steps[SWITCH - 1]["raw_tokens"] == B * L * s * SWITCH
    assert steps[-1]["raw_tokens"] == report.raw_tokens == B * L * (s * SWITCH + STEPS - SWITCH)
    assert report.latent_positions == B * L * STEPS


def test_counted_tokens_are_those_of_the_windows(make_run: MakeRun, tiny_dataset: Dataset) -> None:
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


def test_nothing_is_reset_at_the_switch(
    run_file: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments go through the switch: each is the earlier one, decayed, plus the step's gradient, and no more."""
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
    assert [rate for *_, rate in seen.values()] == [
        pytest.approx(1e-3 * learning_rate_factor(step, total_steps=STEPS, warmup_steps=1, decay_fraction=0.1))
        for step in range(STEPS)
    ]


def test_micro_batches_change_the_loss_by_rounding_only(
    trained: Trained, run_file: Path, config: TrainConfig, tmp_path: Path
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
    opened: Any = transformers.AutoModelForCausalLM.from_pretrained(output / "model")
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, opened.state_dict()[key])
    resumed.close()
    assert (opened.lm_head.weight is opened.model.embed_tokens.weight) == tied


def test_bfloat16_trains_close_to_float32(
    trained: Trained, run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    _, _, exact = trained
    half = tmp_path / "half"
    make_trainer(run_file, config.model_copy(update={"precision": "bfloat16"}), half).run()
    records, expected = ([*events(folder, "evaluation")] for folder in (half, exact))
    assert records[-1]["held_out_loss"] == pytest.approx(expected[-1]["held_out_loss"], rel=0.01)
    assert records[-1]["held_out_loss"] != expected[-1]["held_out_loss"]


def test_gradient_that_is_not_finite_in_the_last_step_ends_the_training(
    run_file: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def norm_of_nothing(*arguments: Any) -> torch.Tensor:
        return torch.tensor(math.nan)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", norm_of_nothing)
    with pytest.raises(TSTError, match=r"step 0: the gradient norm is nan; lower learning_rate .* and start again$"):
        make_trainer(run_file, config.model_copy(update={"evaluation": None}), tmp_path / "output").run()
    assert not (tmp_path / "output" / "model").exists()


def test_loss_that_is_nan_ends_the_training(
    run_file: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = SuperposedLM.forward

    def broken(self: SuperposedLM, batch: Any) -> Any:
        output = forward(self, batch)
        return output._replace(loss=output.loss * math.nan)

    monkeypatch.setattr(SuperposedLM, "forward", broken)
    with pytest.raises(TSTError, match=r"step 0: the loss is nan; lower learning_rate .* and start again$"):
        make_trainer(run_file, config.model_copy(update={"evaluation": None}), tmp_path / "output").run()
    assert not list((tmp_path / "output" / "checkpoints").glob("*"))
    monkeypatch.setattr(SuperposedLM, "forward", forward)
    train_until(5, monkeypatch, run_file, config, tmp_path / "output")
    monkeypatch.setattr(SuperposedLM, "forward", broken)
    with pytest.raises(
        TSTError, match=r"step 4: the loss is nan; .* resume from the checkpoints in '.*' with --accept-changes"
    ):
        make_trainer(run_file, config, tmp_path / "output").run()
