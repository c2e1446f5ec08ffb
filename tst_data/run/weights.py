"""Weights of datasets as whole thousandths: the mixture draws by them, and the fingerprint holds them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from tst_data.errors import InvalidInputError

__all__ = ["PATTERN_LENGTH", "thousandths"]

PATTERN_LENGTH = 1000
"""Windows of a phase in a row that hold each dataset exactly as often as its weight says."""


def thousandths(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights as whole thousandths of their sum, by largest remainder (ties to the earlier dataset).

    Raises InvalidInputError where a positive weight would become 0.
    """
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    shares = [weight * PATTERN_LENGTH / total for weight in exact]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for i in by_remainder[: PATTERN_LENGTH - sum(counts)]:
        counts[i] += 1
    for weight, count in zip(weights, counts, strict=True):
        if weight > 0 and count == 0:
            raise InvalidInputError(
                f"weight {weight:g} is under half a thousandth of the weights' sum {float(total):g} and would be "
                f"rounded to 0; raise it to at least {float(total) / PATTERN_LENGTH:g}, or set it to 0"
            )
    return tuple(counts)
