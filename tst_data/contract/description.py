"""What a run looks like from outside: the response of `GET /v1/runs/{run}`, and part of a materialized `run.json`.

Server, client and materialized folder share these models, so a trainer sees the same description from each of its
three sources.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, model_validator

from tst_data.configuration import Frozen, shown
from tst_data.contract.bags import BagGeometry, Superpose
from tst_data.contract.identity import PHASE_KEYS, batches_fingerprint
from tst_data.errors import DamagedDataError, ForeignDataError, NotFoundError

__all__ = ["ORDER_VERSION", "PhaseDescription", "RunDescription", "other_order_version", "phase_of_step"]

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
    weights: tuple[int, ...]
    """Windows of each dataset in 1,000, in the order of the datasets; 0 for none."""
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
    """A run as its fingerprint identifies it: specification, phases, totals, and how its tokens are to be read.

    The description of a run of another order version is refused with ForeignDataError, whatever else it holds.
    """

    name: str
    """Name of the run, part of its URL."""
    fingerprint: str
    """Identity of all batches of the run, 64 hex digits."""
    order_version: int
    """Version of the rules by which windows are drawn."""
    dataset_fingerprints: tuple[str, ...]
    """Identity of each dataset, in the run's order."""
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

    @model_validator(mode="before")
    @classmethod
    def _check_order_version(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and content.get("order_version", ORDER_VERSION) != ORDER_VERSION:
            raise ForeignDataError(other_order_version(content["order_version"]))  # the caller adds place and remedy
        return content

    def phase(self, step: int) -> PhaseDescription:
        """The phase that a step belongs to; NotFoundError past the end of the run."""
        return phase_of_step(self.phases, step, self.name)

    def prefix_fingerprint(self, num_steps: int) -> str:
        """Identity of the first `num_steps` batches, 64 hex digits; `contract/identity` says what it is good for."""
        return batches_fingerprint(
            order_version=self.order_version,
            datasets=self.dataset_fingerprints,
            seed=self.specification["seed"],
            shuffle_group=self.specification["shuffle_group"],
            phases=({key: getattr(phase, key) for key in PHASE_KEYS} for phase in self.phases),
            num_steps=num_steps,
        )

    def check_identity(self) -> None:
        """Raise DamagedDataError unless the fingerprint is that of the rest of the description."""
        try:
            found = self.prefix_fingerprint(self.total_steps)
        except (KeyError, TypeError):
            found = "none"
        if found != self.fingerprint:
            raise DamagedDataError(
                f"the description of run '{self.name}' contradicts itself: its fingerprint is {self.fingerprint}, but "
                f"its phases and datasets have {found}"
            )


def other_order_version(version: object) -> str:
    """What is wrong with a run of another order version."""
    return (
        f"was drawn in order version {shown(version)}, but this version of the package draws in order version "
        f"{ORDER_VERSION}"
    )


def phase_of_step(phases: Sequence[PhaseDescription], step: int, run: str) -> PhaseDescription:
    """The phase that a step belongs to, by the sum of the steps of the phases before, which each phase holds.

    Raises NotFoundError, naming the run, for a step past its end.
    """
    num_steps = phases[-1].end_step
    if 0 <= step < num_steps:
        return phases[bisect_right(phases, step, key=lambda phase: phase.first_step) - 1]
    raise NotFoundError(f"run '{run}': has no step {step}; choose 0 to {num_steps - 1}")
