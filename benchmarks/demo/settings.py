"""The sizes of the short and the long demo, and the run and training files that are written from them.

Model and data are those of the second study in docs/concepts/results.md#on-a-small-machine: 0.23M parameters, 16 x 64
latent positions a step, s = 4 for three tenths of the steps. The number of steps is fixed, so every machine does the
same work and a slow one takes longer. The short demo has too few steps to show a gain; 14,000 steps were enough in that
study. All events in a run are at hundredths of its steps, so the number of steps is a multiple of 200.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["BASELINE", "LONG", "SHORT", "TST", "DemoSettings", "Places", "run_document", "write_files"]

TST, BASELINE = "tst", "baseline"

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
    """The sizes of one kind of demo."""

    runs: tuple[str, ...]
    """The runs that are trained at the same time: TST alone, or TST and the baseline."""
    steps: int
    minutes: str
    """How long it takes from corpus to report, in words."""
    training_bytes: int
    held_out_bytes: int
    tokenizer_bytes: int
    """Text to train the tokenizer on. Its training uses one core, and a small vocabulary needs little text."""
    evaluations: int
    evaluation_windows: int
    """Held-out windows of each evaluation during the training."""
    final_windows: int
    """Held-out windows on which the two final models are compared."""
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
    def compares(self) -> bool:
        """Whether the baseline is trained too."""
        return BASELINE in self.runs


SHORT = DemoSettings(
    runs=(TST,),
    steps=1_200,
    minutes="about 2 and a half minutes on a quiet machine with 2 cores, under 8 on one that is three times slower",
    training_bytes=12_000_000,
    held_out_bytes=600_000,
    tokenizer_bytes=1_500_000,
    evaluations=40,
    evaluation_windows=128,
    final_windows=0,
)

LONG = DemoSettings(
    runs=(TST, BASELINE),
    steps=14_000,
    minutes="about 11 minutes on a quiet machine with 2 cores, half an hour on one that is three times slower",
    training_bytes=80_000_000,
    held_out_bytes=3_500_000,
    tokenizer_bytes=6_000_000,
    evaluations=40,
    evaluation_windows=384,
    final_windows=8192,
)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where in a run things happen, in steps."""

    steps: int
    switch: int
    evaluate_every: int
    checkpoint_every: int
    checkpoint: int
    """The last checkpoint before the kills, before the switch too. The undisturbed rerun begins here."""
    kill_server: int
    kill_trainer: int

    @classmethod
    def of(cls, settings: DemoSettings) -> Places:
        hundredth = settings.steps // 100
        return cls(
            steps=settings.steps,
            switch=settings.superposition_hundredths * hundredth,
            evaluate_every=settings.steps // settings.evaluations,
            checkpoint_every=7 * hundredth,
            checkpoint=28 * hundredth,
            kill_server=28 * hundredth + hundredth // 2,
            kill_trainer=31 * hundredth,
        )


def run_document(name: str, settings: DemoSettings) -> dict[str, Any]:
    """The run file of one of the two runs. Both have the same number of steps, so the same number of operations."""
    steps, switch = settings.steps, Places.of(settings).switch
    phases = [{"bag_size": 1, "steps": steps}]
    if name == TST:
        phases = [{"bag_size": settings.bag_size, "steps": switch}, {"bag_size": 1, "steps": steps - switch}]
    return {
        "name": name,
        "datasets": [{"path": "data/training"}],
        "sequence_length": settings.sequence_length,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "phases": phases,
    }


def training_document(settings: DemoSettings) -> dict[str, Any]:
    """The training configuration. Both runs have the same: same seed, so the same initial weights."""
    places = Places.of(settings)
    return {
        "model": MODEL,
        "seed": settings.seed,
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup_hundredths * settings.steps // 100,
        "decay_fraction": settings.decay_fraction,
        "device": "cpu",
        "threads": 1,
        "log_every": 1,
        "checkpoint": {"every": places.checkpoint_every, "keep": 2},
        "evaluation": {
            "dataset": "data/held-out",
            "every": places.evaluate_every,
            "windows": settings.evaluation_windows,
            "batch_size": 64,
        },
    }


def write_files(folder: Path, settings: DemoSettings) -> None:
    """The run files (`tst.yaml`, and `baseline.yaml` where it is trained) and `training.yaml`."""
    for name in settings.runs:
        _write(folder / f"{name}.yaml", run_document(name, settings))
    _write(folder / "training.yaml", training_document(settings))


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
