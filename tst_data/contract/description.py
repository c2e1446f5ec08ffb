"""What a run looks like from outside: the answer of `GET /v1/runs/{run}` and the `run.json` of a materialised run.

Server, client and materialised folder share these models, so that a trainer sees the same description whichever of
them its batches come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict

from tst_data.configuration import Frozen
from tst_data.contract.bags import BagGeometry, Superpose
from tst_data.errors import NotFoundError

__all__ = ["ORDER_VERSION", "PhaseDescription", "RunDescription", "phase_of_step"]

ORDER_VERSION = 1
"""Version of the rules by which windows are drawn: part of every run's fingerprint. A change of one byte of the order
of any run needs a new one."""


class _Description(Frozen):
    """Keys that only a newer server knows are ignored."""

    model_config = ConfigDict(extra="ignore")


class PhaseDescription(_Description):
    """One phase with its place in the run. `tokens` are the raw tokens read as input, `latent_positions` B·L·steps."""

    phase: int
    first_step: int
    steps: int
    bag_size: int
    superpose: Superpose
    sequence_length: int
    batch_size: int
    window_length: int
    tokens: int
    latent_positions: int

    @property
    def geometry(self) -> BagGeometry:
        """The window shape of this phase."""
        return BagGeometry(bag_size=self.bag_size, sequence_length=self.sequence_length, superpose=self.superpose)

    @property
    def end_step(self) -> int:
        """The first step behind this phase."""
        return self.first_step + self.steps


class RunDescription(_Description):
    """A run as its fingerprint identifies it: specification, phases, totals, and how its tokens are to be read."""

    name: str
    fingerprint: str
    order_version: int
    specification: dict[str, Any]
    phases: tuple[PhaseDescription, ...]
    total_steps: int
    total_tokens: int
    dtype: Literal["uint16", "uint32"]
    vocabulary_size: int
    end_of_text_id: int

    def phase(self, step: int) -> PhaseDescription:
        """The phase that a step belongs to; NotFoundError past the end of the run."""
        return phase_of_step(self.phases, step, self.name)


def phase_of_step(phases: Sequence[PhaseDescription], step: int, run: str) -> PhaseDescription:
    """The phase that a step belongs to: a walk over the prefix sum of steps, which each phase carries.

    Raises NotFoundError naming the run past its end.
    """
    if step >= 0:
        for phase in phases:
            if step < phase.end_step:
                return phase
    num_steps = phases[-1].end_step
    raise NotFoundError(f"run '{run}' has no step {step}; its {num_steps:,} steps count from 0 to {num_steps - 1}")
