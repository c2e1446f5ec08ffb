"""The training configuration: one YAML or JSON file beside the run, for everything that is not data.

What determines the batches stands in the run file and is not repeated here. Defaults are the paper's where it
names one: AdamW (0.9, 0.95), one warmup-stable-decay schedule over all steps with 2,000 steps of warm-up (at most
a tenth of the run) and a decay over the last tenth. Paths are relative to the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from trainer_client.loss.slot_weights import normalized_slot_weights
from tst_data.configuration import Frozen, load_model

__all__ = ["CheckpointConfig", "EvaluationConfig", "TrainConfig", "load_train_config"]

Count = Annotated[int, Field(strict=True, ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]

SMALL_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


class EvaluationConfig(Frozen):
    """Next-token loss on held-out text, always at bag size 1: before the first step, at each switch, every
    `every` steps and at the end, over the first `windows` non-overlapping windows of the dataset."""

    dataset: str
    every: Count = 500
    windows: Count = 64
    sequence_length: Count | None = None
    """Positions of a window; default: the longest sequence length of the run's phases."""
    batch_size: Count = 16


class CheckpointConfig(Frozen):
    """How often to save, and how many checkpoints to keep."""

    every: Count = 500
    keep: Count = 2


class TrainConfig(Frozen):
    """Model, optimizer, schedule, evaluation and checkpoints of one training."""

    model: dict[str, Any] | str = Field(default_factory=lambda: dict(SMALL_LLAMA))
    """Hugging Face configuration (`model_type` and its keys), or the path of a config.json or its folder."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=1 << 63)] = 0
    micro_batches: Count = 1
    """Parts that a rank's share of a step is computed in (gradient accumulation)."""
    learning_rate: Positive = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    epsilon: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """Applied to matrices; vectors (norms, biases) are not decayed."""
    max_grad_norm: Positive | None = 1.0
    warmup_steps: Annotated[int, Field(strict=True, ge=0)] | None = None
    decay_fraction: Fraction = 0.1
    slot_weights: str | tuple[float, ...] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; auto is bfloat16 where there is a GPU. Weights and sums are float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    threads: Count | None = None
    prefetch: Annotated[int, Field(strict=True, ge=0)] = 2
    timeout_seconds: Positive = 300
    """How long a batch may take to come, restarts of the server included."""
    output: str | None = None
    log_every: Count = 10
    evaluation: EvaluationConfig | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()

    @field_validator("slot_weights")
    @classmethod
    def _check_slot_weights(cls, value: str | tuple[float, ...] | None) -> str | tuple[float, ...] | None:
        if value is not None:
            normalized_slot_weights(value, 1 if isinstance(value, str) else len(value))
        return value

    @field_validator("model")
    @classmethod
    def _check_model(cls, value: dict[str, Any] | str) -> dict[str, Any] | str:
        if isinstance(value, dict) and not isinstance(value.get("model_type"), str):
            raise ValueError("expected model_type, as in {model_type: llama, hidden_size: 256}")
        return value


def load_train_config(path: str | Path | None) -> TrainConfig:
    """The configuration in a file, its paths made absolute; all defaults without one.

    Raises NotFoundError, or InvalidInputError for a file that is not a configuration.
    """
    if path is None:
        return TrainConfig()
    file = Path(path)
    config = load_model(file, TrainConfig, place="training file", keys="keys such as learning_rate: 1.0e-3")
    return _with_absolute_paths(config, file.resolve().parent)


def _with_absolute_paths(config: TrainConfig, folder: Path) -> TrainConfig:
    changes: dict[str, Any] = {}
    if isinstance(config.model, str):
        changes["model"] = str(folder / config.model)
    if config.output is not None:
        changes["output"] = str(folder / config.output)
    if config.evaluation is not None:
        dataset = str(folder / config.evaluation.dataset)
        changes["evaluation"] = config.evaluation.model_copy(update={"dataset": dataset})
    return config.model_copy(update=changes)
