"""Evaluation: next-token loss at bag size 1, in every phase, without dropout.

python -m pytest tests/trainer/test_evaluation.py
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.training import MODEL, STEPS, SWITCH, Trained, events, make_trainer
from trainer_client.trainer.config import EvaluationConfig, TrainConfig
from tst_data.dataset.reader import Dataset
from tst_data.dataset.writer import write_dataset
from tst_data.errors import InvalidInputError


def test_evaluation_is_next_token_loss_at_bag_size_1_before_at_and_after_the_switch(
    trained: Trained, tiny_dataset: Dataset
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


def test_evaluation_uses_no_dropout_and_training_still_does(
    run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    dropping = make_trainer(
        run_file, config.model_copy(update={"model": {**MODEL, "attention_dropout": 0.5}}), tmp_path / "dropping"
    )
    plain = make_trainer(run_file, config, tmp_path / "plain")
    for trainer in (dropping, plain):  # from the same seed: the same weights
        trainer.close()
    assert dropping._evaluation is not None
    assert plain._evaluation is not None
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


def test_evaluation_on_text_of_another_tokenizer_is_refused(
    run_file: Path, config: TrainConfig, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write_dataset(
        other, [[1, 2, 3]] * 20, vocabulary_size=99, end_of_text_id=0, sample_tokens=8, shard_tokens=64
    ).close()
    changed = config.model_copy(update={"evaluation": EvaluationConfig(dataset=str(other))})
    with pytest.raises(InvalidInputError, match="vocabulary_size 99, but run 'test' has 256"):
        make_trainer(run_file, changed, tmp_path / "output")
