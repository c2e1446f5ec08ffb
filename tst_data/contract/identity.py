"""The identity of a run's batches: a hash of what determines them, of all steps or of the first ones.

A step depends on no later one, so the batches before step t are those of the run that ends at t. The *prefix
fingerprint* at t is the fingerprint of that shorter run: its last phase is cut at t, and phases that begin later are
left out. Two runs with the same prefix fingerprint at t have the same batches before t, whatever comes after. At the
run's end it is the run's fingerprint; at step 0 only order version, datasets, seed and shuffle group count.

It is here and not with the run file, because a trainer compares prefixes and knows only the run's description.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

__all__ = ["PHASE_KEYS", "batches_fingerprint"]

PHASE_KEYS = ("bag_size", "steps", "superpose", "batch_size", "sequence_length", "weights")
"""What a phase is identified by, defaults filled in; `weights` are whole thousandths."""


def batches_fingerprint(
    *,
    order_version: int,
    datasets: Sequence[str],
    seed: int,
    shuffle_group: int | Literal["all"],
    phases: Iterable[Mapping[str, Any]],
    num_steps: int | None = None,
) -> str:
    """SHA-256 (64 hex digits) of what determines the first `num_steps` batches of a run; all of them without.

    `datasets` are the datasets' fingerprints in order. Each phase has the PHASE_KEYS.
    """
    identity = {
        "order_version": order_version,
        "datasets": list(datasets),
        "seed": seed,
        "shuffle_group": shuffle_group,
        "phases": list(phases if num_steps is None else _clipped(phases, num_steps)),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _clipped(phases: Iterable[Mapping[str, Any]], num_steps: int) -> Iterable[Mapping[str, Any]]:
    """The phases of the first steps: the last of them ends at `num_steps`."""
    left = num_steps
    for phase in phases:
        if left <= 0:
            return
        yield {**phase, "steps": min(phase["steps"], left)}
        left -= phase["steps"]
