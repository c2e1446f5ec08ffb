"""The training file: what it may say, and how a wrong one is refused.

python -m pytest tests/trainer/test_train_config.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.training import MODEL, make_trainer
from trainer_client.model.hugging_face import build_config
from trainer_client.trainer.config import TrainConfig, load_train_config
from tst_data.errors import InvalidInputError, NotFoundError, TSTError
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run


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
    assert trainer.model.get_parameter("model.embed_tokens.weight").shape == (300, 32)
    trainer.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("learnin_rate: 1", "unknown key 'learnin_rate'"),
        ("evaluation: {every: 3}", "'evaluation.dataset' is missing"),
        ("learning_rate: -1", "'learning_rate': expected more than 0"),
        ("checkpoint: {every: 0}", "'checkpoint.every'"),
        ("slot_weights: powr", "'slot_weights': 'powr' is not known; give one of uniform, power"),
        ("model: {hidden_size: 3}", "expected model_type"),
        ("precision: float8", "'precision'"),
        ("[1, 2]", "expected keys .* found a list"),
        ("a: [", "not valid YAML or JSON"),
        ("seed: 1\nseed: 2", "the key 'seed' appears twice"),
        ("model: {model_type: llama, hidden_size: 32, hidden_size: 64}", "the key 'hidden_size' appears twice"),
        ("[" * 5000, "nested too deeply"),
        ("model: " + "{a: " * 5000, "nested too deeply"),
        ("seed: 2026-13-41", r"'seed': expected a whole number \(given: '2026-13-41'\)"),
        ("seed: 2026-01-01", r"'seed': expected a whole number \(given: '2026-01-01'\)"),
        ("betas: [0.9, 1.0]", r"'betas.1': expected less than 1 \(given: 1.0\)"),
        ("model: null", r"'model': expected a mapping \(given: null\)"),
        ('model: "a\\0b"', r"train\.yaml': 'model': 'a\\x00b' holds a NUL character"),
        ("output: ~nosuchuser/x", r"train\.yaml': 'output': '~nosuchuser/x': there is no such user"),
        ("evaluation: {dataset: ~nosuchuser/x}", r"train\.yaml': 'evaluation.dataset': .*there is no such user"),
        ("steps: 010", "line 1, column 8: the number 010 begins with 0; write 10"),
        ("log_every: 1e3", r"'log_every': expected a whole number \(given: 1000\.0\); write it without a point or an"),
        ("output: 1e3", r"'output': expected a string \(given: 1000\.0\); put it in quotes"),
        ("null: 3", "line 1, column 1: the key null is not a string; put it in quotes"),
    ],
)
def test_wrong_configuration_file_is_refused_in_one_line(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(content)
    with pytest.raises(InvalidInputError, match=words) as caught:
        load_train_config(path)
    assert "\n" not in str(caught.value)
    assert "train.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model": {**MODEL, "hidden_sise": 3}},
            "model.hidden_sise: is not a key of model_type llama; correct its spelling",
        ),
        ({"model": {**MODEL, "rope_thetta": 5e5}}, "model.rope_thetta: is not a key of model_type llama"),
        ({"model": {**MODEL, "hidden_size": "x"}}, "model: is not a configuration of llama "),
        ({"model": {**MODEL, "hidden_size": -2}}, "hidden|negative"),
        ({"model": {**MODEL, "attention_dropout": 7}}, "LlamaForCausalLM: cannot run on three tokens .*dropout"),
        ({"model": {"model_type": "lama"}}, "model.model_type: 'lama' is not known"),
        ({"model": {**MODEL, "vocab_size": 100}}, "vocab_size: is 100, but run 'test' has a vocabulary of 256"),
        (
            {"model": {**MODEL, "max_position_embeddings": 8}},
            "max_position_embeddings: is 8, but run 'test' has sequences of 16 positions",
        ),
        ({"model": "missing/config.json"}, "model 'missing/config.json': does not exist"),
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


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "train.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    if kind == "folder":
        path.mkdir()
    with pytest.raises(InvalidInputError, match=rf"^training file '{path}': cannot be read \(it is a "):
        load_train_config(path)
