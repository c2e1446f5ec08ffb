"""Slot weights g(1..s): how much each of the s tokens of a bag counts in the loss.

docs/concepts/token-superposition.md#slot-weights defines them. They are given by name or as s numbers, and are always
normalized to sum 1: at bag size 1 every choice is [1] and the loss is ordinary cross-entropy. Uniform is the default
and the paper's main setting. The power law is steadier at large s, gives a lower loss from about s = 9 where r is
small, and is worse below 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tst_data.errors import InvalidInputError

__all__ = ["SLOT_WEIGHTS", "SlotWeights", "normalized_slot_weights", "slot_weights_tensor"]

SlotWeights = str | Sequence[float] | Tensor | None
"""A name of `SLOT_WEIGHTS`, s numbers (not negative, not all zero), or None for uniform."""

SLOT_WEIGHTS: dict[str, Callable[[int], float]] = {
    "uniform": lambda i: 1.0,
    "power": lambda i: 1.0 / i,
    "exponential": lambda i: math.exp(-i),
    "first": lambda i: 1.0 if i == 1 else 0.0,
    "mutual_information": lambda i: 3.63 + 1.35 * i**-1.25,
}
"""Weight of slot i, counted from 1, before normalizing."""


def normalized_slot_weights(slot_weights: SlotWeights, num_slots: int) -> list[float]:
    """The weights of `num_slots` slots, with sum 1. Raises InvalidInputError for what cannot be weights."""
    if slot_weights is None:
        slot_weights = "uniform"
    if isinstance(slot_weights, str):
        if slot_weights not in SLOT_WEIGHTS:
            raise InvalidInputError(
                f"slot_weights: {slot_weights!r} is not known; give one of {', '.join(SLOT_WEIGHTS)}, or numbers"
            )
        weight = SLOT_WEIGHTS[slot_weights]
        values = [weight(i) for i in range(1, num_slots + 1)]
    else:
        given = slot_weights.tolist() if isinstance(slot_weights, Tensor) else slot_weights
        try:
            values = [float(value) for value in given]
        except (TypeError, ValueError):
            raise InvalidInputError(f"slot_weights: expected a name or a list of numbers (given: {given!r})") from None
    if len(values) != num_slots:
        raise InvalidInputError(
            f"slot_weights: {len(values)} weights, but the targets have {num_slots} slots; give {num_slots}"
        )
    if not all(math.isfinite(value) and value >= 0 for value in values) or sum(values) <= 0:
        raise InvalidInputError(
            f"slot_weights: expected finite numbers, not negative and not all zero (given: {values})"
        )
    total = math.fsum(values)
    return [value / total for value in values]


def slot_weights_tensor(slot_weights: SlotWeights, num_slots: int, like: Tensor) -> Tensor:
    """Normalized weights (s,) with the dtype and device of `like`."""
    return torch.tensor(normalized_slot_weights(slot_weights, num_slots), dtype=like.dtype, device=like.device)
