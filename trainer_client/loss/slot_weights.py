"""Slot weights g(1..s): how much each of the s tokens of a bag counts in the loss (TST.md, "Slot weights").

Weights are given by name or as s numbers and always come out normalised to sum 1, so that at bag size 1 every
choice is [1] and the loss is ordinary cross-entropy. Uniform is the default and the paper's main setting; the
power law is steadier from about s = 9 and worse below 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tst_data.errors import InvalidInputError

__all__ = ["SLOT_WEIGHTS", "SlotWeights", "normalised_slot_weights"]

SlotWeights = str | Sequence[float] | Tensor | None
"""A name of `SLOT_WEIGHTS`, s numbers (not negative, not all zero), or None for uniform."""

SLOT_WEIGHTS: dict[str, Callable[[int], float]] = {
    "uniform": lambda i: 1.0,
    "power": lambda i: 1.0 / i,
    "exponential": lambda i: math.exp(-i),
    "first": lambda i: 1.0 if i == 1 else 0.0,
    "mutual_information": lambda i: 3.63 + 1.35 * i**-1.25,
}
"""Weight of slot i, counted from 1, before normalising."""


def normalised_slot_weights(slot_weights: SlotWeights, num_slots: int) -> list[float]:
    """The weights of `num_slots` slots, summing to 1. Raises InvalidInputError for weights that cannot be."""
    if slot_weights is None:
        slot_weights = "uniform"
    if isinstance(slot_weights, str):
        if slot_weights not in SLOT_WEIGHTS:
            raise InvalidInputError(
                f"slot_weights {slot_weights!r} is not known; give one of {', '.join(SLOT_WEIGHTS)}, or numbers"
            )
        weight = SLOT_WEIGHTS[slot_weights]
        values = [weight(i) for i in range(1, num_slots + 1)]
    else:
        given = slot_weights.tolist() if isinstance(slot_weights, Tensor) else slot_weights
        try:
            values = [float(value) for value in given]
        except (TypeError, ValueError):
            raise InvalidInputError(f"slot_weights must be a name or a list of numbers, not {given!r}") from None
    if len(values) != num_slots:
        raise InvalidInputError(
            f"slot_weights has {len(values)} weights, but the targets have {num_slots} slots; give {num_slots}"
        )
    if not all(math.isfinite(value) and value >= 0 for value in values) or sum(values) <= 0:
        raise InvalidInputError(f"slot_weights {values} must be finite, not negative and not all zero")
    total = math.fsum(values)
    return [value / total for value in values]


def slot_weights_tensor(slot_weights: SlotWeights, num_slots: int, like: Tensor) -> Tensor:
    """Normalised weights (s,) with the dtype and device of `like`."""
    return torch.tensor(normalised_slot_weights(slot_weights, num_slots), dtype=like.dtype, device=like.device)
