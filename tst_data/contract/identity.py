"""The identity of a run's batches: a hash of what determines them, of all steps or of the first ones.

A step depends on no later one, so the batches before step t are those of the run that ends at t. The *prefix
fingerprint* at t is the fingerprint of that shorter run: its last phase is cut at t, and phases that begin later are
left out. Two runs with the same prefix fingerprint at t have the same batches before t, whatever comes after. At the
run's end it is the run's fingerprint; at step 0 only order version, datasets, seed and shuffle group count.

Datasets at the end of the list that none of these phases draws from are left out too. So a dataset can be added for a
later phase: the batches before it are the same, and their identity is. (A dataset in the middle of the list counts,
because the ones after it have another number without it. At step 0 the datasets are those of the first phase.)

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
    whole = list(phases)
    clipped = whole if num_steps is None else _clipped(whole, num_steps)
    num_datasets = max((_num_datasets(phase["weights"]) for phase in clipped or whole[:1]), default=0)
    identity = {
        "order_version": order_version,
        "datasets": list(datasets)[:num_datasets],
        "seed": seed,
        "shuffle_group": shuffle_group,
        "phases": [{**phase, "weights": list(phase["weights"])[:num_datasets]} for phase in clipped],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _clipped(phases: Iterable[Mapping[str, Any]], num_steps: int) -> list[Mapping[str, Any]]:
    """The phases of the first steps: the last of them ends at `num_steps`."""
    clipped: list[Mapping[str, Any]] = []
    left = num_steps
    for phase in phases:
        if left <= 0:
            break
        clipped.append({**phase, "steps": min(phase["steps"], left)})
        left -= phase["steps"]
    return clipped


def _num_datasets(weights: Sequence[int]) -> int:
    """Datasets up to the last one that has a share."""
    return max((dataset + 1 for dataset, weight in enumerate(weights) if weight), default=0)
