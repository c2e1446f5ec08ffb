"""What the demo does, in numbers, and the run and training files that it writes for it.

The model and the data are TST.md's second small-machine experiment: 0.23M parameters on 16 x 64 latents a step, s = 4
for three tenths of the steps. Both runs have the same number of steps, so the same FLOPs; how many is calibrated to
the machine. All places in a run are hundredths of its steps, which are therefore a multiple of 200.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["BASELINE", "FULL", "QUICK", "TST", "DemoSettings", "Places", "run_document", "steps_within", "write_files"]

TST, BASELINE = "tst", "baseline"
STEP_MULTIPLE = 200
FORWARD_SHARE = 0.45

MODEL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Sizes and times of one kind of demo."""

    quick: bool
    training_bytes: int
    held_out_bytes: int
    tokenizer_bytes: int
    """Text that the tokenizer is trained on: its training is serial, and the vocabulary small."""
    max_steps: int
    total_seconds: float
    """What the whole demo aims at, from corpus to report."""
    finish_seconds: float
    """Of these, what is needed behind the training: the undisturbed stretch, evaluation, audit, report."""
    overhead_seconds: float
    """Of these, what is spent around the steps: starts of server and trainers, the outage, steps taken twice."""
    calibration_seconds: float
    evaluations: int
    evaluation_windows: int
    """Held-out windows of each evaluation along the way."""
    final_windows: int
    """Held-out windows that the two final models are compared on."""
    min_steps: int
    vocabulary_size: int = 1024
    sequence_length: int = 64
    batch_size: int = 16
    bag_size: int = 4
    superposition_hundredths: int = 30
    warmup_hundredths: int = 2
    decay_fraction: float = 0.2
    learning_rate: float = 5e-3
    seed: int = 17

    @property
    def evaluation_steps(self) -> float:
        """What all evaluations of one run cost, in training steps: a window takes FORWARD_SHARE of one trained on."""
        return FORWARD_SHARE * self.evaluations * self.evaluation_windows / self.batch_size

    @property
    def tokens_per_step(self) -> float:
        """Raw tokens of the superposed run, per step of the whole run."""
        share = self.superposition_hundredths / 100
        return self.batch_size * self.sequence_length * (1 + share * (self.bag_size - 1))


FULL = DemoSettings(
    quick=False,
    training_bytes=110_000_000,
    held_out_bytes=3_500_000,
    tokenizer_bytes=6_000_000,
    max_steps=14_000,
    total_seconds=520,
    finish_seconds=45,
    overhead_seconds=32,
    calibration_seconds=8,
    evaluations=40,
    evaluation_windows=384,
    final_windows=8192,
    min_steps=1000,
)

QUICK = DemoSettings(
    quick=True,
    training_bytes=6_000_000,
    held_out_bytes=600_000,
    tokenizer_bytes=1_500_000,
    max_steps=2_000,
    total_seconds=86,
    finish_seconds=15,
    overhead_seconds=15,
    calibration_seconds=3,
    evaluations=20,
    evaluation_windows=128,
    final_windows=2048,
    min_steps=200,
)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where in a run things happen, in steps."""

    steps: int
    switch: int
    evaluate_every: int
    checkpoint_every: int
    checkpoint: int
    """The last checkpoint before the kills: the stretch that is compared begins here, before the switch."""
    kill_server: int
    kill_trainer: int

    @classmethod
    def of(cls, steps: int, settings: DemoSettings) -> Places:
        hundredth = steps // 100
        return cls(
            steps=steps,
            switch=settings.superposition_hundredths * hundredth,
            evaluate_every=steps // settings.evaluations,
            checkpoint_every=7 * hundredth,
            checkpoint=28 * hundredth,
            kill_server=28 * hundredth + hundredth // 2,
            kill_trainer=31 * hundredth,
        )


def steps_within(
    seconds: float, *, superposed_step: float, plain_step: float, num_tokens: int, settings: DemoSettings
) -> int:
    """The most steps that take at most `seconds` in either run and read no token twice; a multiple of 200.

    The step times are those of the two trainers working side by side.
    """
    share = settings.superposition_hundredths / 100
    mean_step = max(share * superposed_step + (1 - share) * plain_step, plain_step)
    in_time = seconds / mean_step - settings.evaluation_steps
    of_data = 0.98 * num_tokens / settings.tokens_per_step
    steps = int(max(settings.min_steps, min(in_time, settings.max_steps)))
    return int(min(steps, of_data)) // STEP_MULTIPLE * STEP_MULTIPLE


def run_document(name: str, steps: int, data: str, settings: DemoSettings) -> dict[str, Any]:
    """The run file of one of the two runs."""
    switch = settings.superposition_hundredths * steps // 100
    phases = [{"bag_size": 1, "steps": steps}]
    if name == TST:
        phases = [{"bag_size": settings.bag_size, "steps": switch}, {"bag_size": 1, "steps": steps - switch}]
    return {
        "name": name,
        "datasets": [{"path": f"{data}/training"}],
        "sequence_length": settings.sequence_length,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "phases": phases,
    }


def training_document(places: Places, data: str, settings: DemoSettings, *, evaluated: bool) -> dict[str, Any]:
    """The training configuration, the same for both runs: same seed, so same initialisation."""
    document: dict[str, Any] = {
        "model": MODEL,
        "seed": settings.seed,
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup_hundredths * places.steps // 100,
        "decay_fraction": settings.decay_fraction,
        "device": "cpu",
        "threads": 1,
        "log_every": 1,
        "checkpoint": {"every": places.checkpoint_every, "keep": 2},
    }
    if evaluated:
        document["evaluation"] = {
            "dataset": f"{data}/held-out",
            "every": places.evaluate_every,
            "windows": settings.evaluation_windows,
            "batch_size": 64,
        }
    return document


def write_files(folder: Path, places: Places, settings: DemoSettings, *, data: str, evaluated: bool = True) -> None:
    """`tst.yaml` and `baseline.yaml`, the runs, and `training.yaml`; `data` is the datasets' folder from there."""
    for name in (TST, BASELINE):
        _write(folder / f"{name}.yaml", run_document(name, places.steps, data, settings))
    _write(folder / "training.yaml", training_document(places, data, settings, evaluated=evaluated))


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
