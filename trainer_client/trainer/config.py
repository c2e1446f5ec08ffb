"""The training file: one YAML or JSON file beside the run file, for everything that is not data.

What determines the batches is in the run file and is not repeated here. Defaults are the paper's where it gives them:
AdamW (0.9, 0.95), one warmup-stable-decay schedule over all steps with 2,000 steps of warm-up (at most a tenth of the
run) and a decay over the last tenth. Paths are relative to the file.

The string after a field is its description in the generated reference and JSON Schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from trainer_client.loss.slot_weights import normalized_slot_weights
from tst_data.configuration import Frozen, load_model
from tst_data.errors import InvalidInputError
from tst_data.given_files import expanded_path

__all__ = ["CheckpointConfig", "EvaluationConfig", "TrainConfig", "load_train_config"]

Count = Annotated[int, Field(strict=True, ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]

SMALL_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


class EvaluationConfig(Frozen):
    """Next-token loss on held-out text, always at bag size 1, over the first windows of a dataset without overlap.

    It is computed before the first step, every `every` steps, at each switch and at the end.
    """

    dataset: str
    """Folder of the held-out dataset, made with the tokenizer of the run's datasets."""
    every: Count = 500
    """Steps from one evaluation to the next."""
    windows: Count = 64
    """How many windows to evaluate on; fewer where the dataset has fewer."""
    sequence_length: Count | None = None
    """Positions of a window. Null: the longest sequence length of the run's phases."""
    batch_size: Count = 16
    """Windows that are evaluated at the same time. It changes speed and memory, not the result."""


class CheckpointConfig(Frozen):
    """How often to save, and how many checkpoints to keep."""

    every: Count = 500
    """Steps from one checkpoint to the next. The last step and a stop by a signal are saved too."""
    keep: Count = 2
    """How many of the newest checkpoints to keep."""


class TrainConfig(Frozen):
    """Model, optimizer, schedule, evaluation and checkpoints of one training."""

    model: dict[str, Any] | str = Field(default_factory=lambda: dict(SMALL_LLAMA))
    """Keys of a Hugging Face configuration with `model_type`, or the path of a config.json or of its folder. Vocabulary
    size, end-of-text id and room for the longest sequence are filled in from the run. Default: a small Llama with 4
    layers of width 256."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=1 << 63)] = 0
    """Seed of the first weights and of dropout. The seed of the data is in the run file."""
    micro_batches: Count = 1
    """Number of parts into which a rank divides its share of a step, computed one after another (gradient
    accumulation)."""
    learning_rate: Positive = 1e-3
    """Peak learning rate, between warm-up and decay."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay factors of AdamW's two moments."""
    epsilon: Positive = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """Weight decay of matrices. Vectors (norms, biases) are not decayed."""
    max_grad_norm: Positive | None = 1.0
    """Gradients with a larger norm are scaled down to it. Null: no limit."""
    warmup_steps: Annotated[int, Field(strict=True, ge=0)] | None = None
    """Steps in which the learning rate rises. Null: 2,000, but at most a tenth of the run, as it was when the training
    began."""
    decay_fraction: Fraction = 0.1
    """Share of all steps, at the end, in which the learning rate falls."""
    slot_weights: str | tuple[float, ...] | None = None
    """How much each token of a bag counts in the loss: uniform, power, exponential, first, mutual_information, or one
    number per slot. Null: uniform."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Format of matrix products; auto is bfloat16 on a GPU and float32 on a CPU. Weights and sums are float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto is cuda where there is a GPU, else cpu."""
    compile: bool = False
    """Whether to compile the model with torch.compile."""
    threads: Count | None = None
    """CPU threads of torch. Null: torch's own default."""
    prefetch: Annotated[int, Field(strict=True, ge=0)] = 2
    """Batches that are fetched ahead; with 0 each is fetched when it is needed."""
    timeout_seconds: Positive = 300
    """How long to wait for one batch, also while the server restarts."""
    output: str | None = None
    """Folder of checkpoints, metrics and the model. The option --output replaces it. Null: training/NAME of the run."""
    log_every: Count = 10
    """Steps from one record of loss and speed to the next. Switches, checkpoints and the last step have one too."""
    evaluation: EvaluationConfig | None = None
    """Evaluation on held-out text. Null: none."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When to save checkpoints, and how many to keep."""

    @field_validator("slot_weights")
    @classmethod
    def _check_slot_weights(cls, value: str | tuple[float, ...] | None) -> str | tuple[float, ...] | None:
        if value is not None:
            try:
                normalized_slot_weights(value, 1 if isinstance(value, str) else len(value))
            except InvalidInputError as error:  # the key is named once, by the message around this one
                raise ValueError(str(error).removeprefix("slot_weights: ")) from None
        return value

    @field_validator("model")
    @classmethod
    def _check_model(cls, value: dict[str, Any] | str) -> dict[str, Any] | str:
        if isinstance(value, dict) and not isinstance(value.get("model_type"), str):
            raise ValueError("expected model_type, as in {model_type: llama, hidden_size: 256}")
        return value


def load_train_config(path: str | Path | None) -> TrainConfig:
    """The configuration in a file, with its paths made absolute. Without a file, all defaults.

    Raises NotFoundError, or InvalidInputError for a file that is not a configuration.
    """
    if path is None:
        return TrainConfig()
    file = Path(path)
    config = load_model(file, TrainConfig, place="training file", keys="keys such as learning_rate: 1.0e-3")
    return _with_absolute_paths(config, file)


def _with_absolute_paths(config: TrainConfig, file: Path) -> TrainConfig:
    folder = file.resolve().parent

    def absolute(path: str, key: str) -> str:
        return str(folder / expanded_path(path, f"training file '{file}': '{key}'"))

    changes: dict[str, Any] = {}
    if isinstance(config.model, str):
        changes["model"] = absolute(config.model, "model")
    if config.output is not None:
        changes["output"] = absolute(config.output, "output")
    if config.evaluation is not None:
        dataset = absolute(config.evaluation.dataset, "evaluation.dataset")
        changes["evaluation"] = config.evaluation.model_copy(update={"dataset": dataset})
    return config.model_copy(update=changes)
