"""What a run looks like from outside: the response of `GET /v1/runs/{run}`, and part of a materialized `run.json`.

Server, client and materialized folder share these models, so a trainer sees the same description from each of its
three sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict

from tst_data.configuration import Frozen
from tst_data.contract.bags import BagGeometry, Superpose
from tst_data.errors import NotFoundError

__all__ = ["ORDER_VERSION", "PhaseDescription", "RunDescription", "phase_of_step"]

ORDER_VERSION = 2
"""Version of the rules by which windows are drawn; it is part of each run's fingerprint. Another order, even by one
byte of one run, needs another version."""


class _Description(Frozen):
    """Ignores keys that it does not know: they are those of a newer server."""

    model_config = ConfigDict(extra="ignore")


class PhaseDescription(_Description):
    """One phase, and where it is in the run."""

    phase: int
    """Number of the phase, from 0."""
    first_step: int
    """Step at which the phase begins."""
    steps: int
    """Optimizer steps of the phase."""
    bag_size: int
    """Tokens read or predicted at one latent position (s)."""
    superpose: Superpose
    """What is superposed: `both` inputs and targets, only the `input`, or only the `output`."""
    sequence_length: int
    """Latent positions of a sequence (L)."""
    batch_size: int
    """Sequences of a step, over all ranks (B)."""
    window_length: int
    """Tokens of one window (A + a)."""
    tokens: int
    """Raw tokens that the phase reads as input."""
    latent_positions: int
    """Latent positions of the phase: B·L·steps."""

    @property
    def geometry(self) -> BagGeometry:
        """The window shape of this phase."""
        return BagGeometry(bag_size=self.bag_size, sequence_length=self.sequence_length, superpose=self.superpose)

    @property
    def end_step(self) -> int:
        """The first step after this phase."""
        return self.first_step + self.steps


class RunDescription(_Description):
    """A run as its fingerprint identifies it: specification, phases, totals, and how its tokens are to be read."""

    name: str
    """Name of the run, part of its URL."""
    fingerprint: str
    """Identity of all batches of the run, 64 hex digits."""
    order_version: int
    """Version of the rules by which windows are drawn."""
    specification: dict[str, Any]
    """The run file with every default filled in."""
    phases: tuple[PhaseDescription, ...]
    """The phases in order."""
    total_steps: int
    """Steps of all phases together."""
    total_tokens: int
    """Raw tokens that all phases together read as input."""
    dtype: Literal["uint16", "uint32"]
    """Type of the tokens in each batch."""
    vocabulary_size: int
    """Number of token ids; each id is below it."""
    end_of_text_id: int
    """Token that closes each document."""

    def phase(self, step: int) -> PhaseDescription:
        """The phase that a step belongs to; NotFoundError past the end of the run."""
        return phase_of_step(self.phases, step, self.name)


def phase_of_step(phases: Sequence[PhaseDescription], step: int, run: str) -> PhaseDescription:
    """The phase that a step belongs to, by the sum of the steps of the phases before, which each phase holds.

    Raises NotFoundError, naming the run, for a step past its end.
    """
    if step >= 0:
        for phase in phases:
            if step < phase.end_step:
                return phase
    num_steps = phases[-1].end_step
    raise NotFoundError(f"run '{run}': has no step {step}; choose 0 to {num_steps - 1}")
