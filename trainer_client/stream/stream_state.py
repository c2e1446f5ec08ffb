"""Where a stream is: its next step, the micro-batch within it, and the digest of what was delivered.

A batch is a pure function of (run, step, rank, world size), so the state that is saved is the number of the next step,
with the fingerprint of the data. It does not depend on the rank, so it can be loaded at any world size that divides
the batch.

The digest is a chained hash over step, micro-batch and window checksum of every batch that this rank was given. Two
parts of a training that read the same data end with the same digest, no matter what was restarted in between and where
the data came from. It is saved for each rank with the state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from trainer_client.stream.options import whole_number
from tst_data.configuration import shown
from tst_data.contract.description import RunDescription
from tst_data.errors import ForeignDataError, InvalidInputError

__all__ = ["EMPTY_DIGEST", "STATE_VERSION", "StreamState"]

STATE_VERSION = 1
EMPTY_DIGEST = "0" * 32


class StreamState:
    """The position of one rank in a run. Only whole steps count: within a step the position is still its beginning."""

    def __init__(self, description: RunDescription, micro_batches: int) -> None:
        self.next_step = 0
        """The first step of which not every micro-batch was delivered."""
        self.micro_batch = 0
        """The micro-batch of `next_step` that is delivered next."""
        self.digest = EMPTY_DIGEST
        """Of the whole steps before `next_step`."""
        self._digest_so_far = EMPTY_DIGEST  # with the micro-batches of the step that is not whole yet
        self._description = description
        self._micro_batches = micro_batches

    @property
    def position(self) -> int:
        """The number of the next micro-batch, counted from the beginning of the run."""
        return self.next_step * self._micro_batches + self.micro_batch

    @property
    def num_left(self) -> int:
        """Micro-batches until the end of the run."""
        return self._description.total_steps * self._micro_batches - self.position

    def advance(self, step: int, checksum: str) -> bool:
        """Count the next micro-batch, which is of `step`, as delivered. Returns whether all of its step is."""
        link = f"{self._digest_so_far}:{step}:{self.micro_batch}:{checksum}"
        self._digest_so_far = hashlib.blake2b(link.encode(), digest_size=16).hexdigest()
        self.micro_batch += 1
        if self.micro_batch < self._micro_batches:
            return False
        self.go_to(self.next_step + 1, self._digest_so_far)
        return True

    def go_to(self, step: int, digest: str) -> None:
        """Move to the beginning of a step."""
        self.next_step, self.micro_batch = step, 0
        self.digest = self._digest_so_far = digest

    def to_dict(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "fingerprint": self._description.fingerprint,
            "next_step": self.next_step,
        }

    def load(self, state: Mapping[str, Any], digest: str | None, location: str) -> None:
        """Move to a saved state. `location` names the source in messages.

        Raises InvalidInputError for what is not a state, ForeignDataError for a state of other data. Then nothing has
        changed.
        """
        step = self._saved_step(state, location)
        if digest is not None and not _is_digest(digest):
            raise InvalidInputError(
                f"digest: expected the 32 hex digits of BatchStream.digest (given: {shown(digest)})"
            )
        self.go_to(step, digest or EMPTY_DIGEST)

    def check_step(self, name: str, step: Any) -> int:
        """A step from 0 to the end of the run, which is a position too. Raises InvalidInputError."""
        number = whole_number(name, step, at_least=0)
        total = self._description.total_steps
        if number > total:
            raise InvalidInputError(
                f"{name}: {number} is past the end of run '{self._description.name}'; choose 0 to {total}"
            )
        return number

    def _saved_step(self, state: Mapping[str, Any], location: str) -> int:
        remedy = "pass what state_dict() returned, with version, fingerprint and next_step"
        if not isinstance(state, Mapping):
            raise InvalidInputError(f"state: is {type(state).__name__}, not a mapping; {remedy}")
        if not {"version", "fingerprint", "next_step"} <= set(state):
            raise InvalidInputError(f"state: has only the keys {sorted(map(str, state))}; {remedy}")
        version, fingerprint = state["version"], state["fingerprint"]
        if version != STATE_VERSION:
            raise InvalidInputError(f"state: has version {shown(version)}, expected {STATE_VERSION}; {remedy}")
        if not isinstance(fingerprint, str):
            raise InvalidInputError(f"state: has fingerprint {shown(fingerprint)}; {remedy}")
        if fingerprint != self._description.fingerprint:
            raise ForeignDataError(
                f"state: belongs to data with fingerprint {fingerprint}, but {location} has "
                f"{self._description.fingerprint}; resume with the run that it was saved from"
            )
        return self.check_step("next_step of state", state["next_step"])


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")
