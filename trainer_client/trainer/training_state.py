"""What a checkpoint says besides its tensors, and whether a training may resume from it.

Model and data must be those of the checkpoint. The hyperparameters must be too, unless the user accepts the changes.
What changes a result by rounding only (micro-batches, precision, device) may be changed at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tst_data.configuration import shown
from tst_data.errors import InvalidInputError

__all__ = ["TrainingState"]


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """The plain values of a training after some of its steps: the content of `checkpoint.json`."""

    step: int
    """Steps that are done; the next one has this number."""
    stream: dict[str, Any]
    """`BatchStream.state_dict()`."""
    digests: list[str]
    """Of each rank, in order."""
    model: dict[str, Any]
    """The model's configuration, without the keys that have their default."""
    seconds: float
    """Time spent on training so far, over all restarts."""
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    """What the updates were made with; empty where the checkpoint does not say it."""

    def digest_of(self, rank: int, world_size: int) -> str | None:
        """The digest that a rank continues; None where the checkpoint has another world size, so a new chain begins."""
        return self.digests[rank] if len(self.digests) == world_size else None

    def check_hyperparameters(self, given: dict[str, Any], folder: Path) -> None:
        """Raise InvalidInputError for the first one that differs. `folder` is where this state was saved."""
        for key, saved in self.hyperparameters.items():
            if saved != given.get(key):
                raise InvalidInputError(
                    f"'{folder}': was trained with {key} {shown(saved)}, but the configuration has "
                    f"{shown(given.get(key))}; change it back, choose another --output, or add --accept-changes "
                    "to resume with the new value"
                )

    def check_model(self, given: dict[str, Any], folder: Path) -> None:
        """Raise InvalidInputError for the first key of the model's configuration that differs."""
        for key in sorted(set(self.model) | set(given)):
            if self.model.get(key) != given.get(key):
                raise InvalidInputError(
                    f"'{folder}': its model has {key} {shown(self.model.get(key))}, but the configuration has "
                    f"{shown(given.get(key))}; resume with the model that was saved, or choose another --output"
                )
