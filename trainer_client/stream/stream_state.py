"""Where a stream is: its next step, the micro-batch within it, and the digest of what was delivered.

A batch is a pure function of (run, step, rank, world size), so the state that is saved is the number of the next step,
with the identity of the batches before it (`tst_data.contract.identity`). So it can be loaded on a run that was
extended, or changed after that step, and on no other. It does not depend on the rank, so it can be loaded at any world
size that divides the batch.

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
from tst_data.contract.description import RunDescription, other_order_version
from tst_data.errors import ForeignDataError, InvalidInputError

__all__ = ["EMPTY_DIGEST", "STATE_VERSION", "StreamState", "check_state"]

STATE_VERSION = 2
"""Version 1 had no prefix fingerprint. It was of runs in order version 1."""

KEYS = ("version", "fingerprint", "prefix_fingerprint", "next_step")
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
            "prefix_fingerprint": self._description.prefix_fingerprint(self.next_step),
            "next_step": self.next_step,
        }

    def load(self, state: Mapping[str, Any], digest: str | None, location: str) -> None:
        """Move to a saved state. `location` names the source in messages.

        Raises as `check_state`, or InvalidInputError for what is not a digest. Then nothing has changed.
        """
        step = check_state(state, self._description, location)
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


def check_state(state: Mapping[str, Any], description: RunDescription, location: str, *, place: str = "state") -> int:
    """The step at which a saved state continues in a run. `location` names the run's source in messages.

    Raises InvalidInputError for what is not a state or is past the end of the run, ForeignDataError where the batches
    before its step are not those of the run.
    """
    remedy = f"pass what state_dict() returned, with {', '.join(KEYS[:-1])} and {KEYS[-1]}"
    if not isinstance(state, Mapping):
        raise InvalidInputError(f"{place}: is {type(state).__name__}, not a mapping; {remedy}")
    version = state.get("version")
    if version == 1 and not isinstance(version, bool):
        raise ForeignDataError(
            f"{place}: {other_order_version(1)}; finish that training with the version that began it, or start again"
        )
    if version is not None and version != STATE_VERSION:
        raise InvalidInputError(f"{place}: has version {shown(version)}, expected {STATE_VERSION}; {remedy}")
    if not set(KEYS) <= set(state):
        raise InvalidInputError(f"{place}: has only the keys {sorted(map(str, state))}; {remedy}")
    for key in ("fingerprint", "prefix_fingerprint"):
        if not isinstance(state[key], str):
            raise InvalidInputError(f"{place}: has {key} {shown(state[key])}; {remedy}")
    step = whole_number(f"next_step of {place}", state["next_step"], at_least=0)
    total = description.total_steps
    if step > total:
        raise InvalidInputError(
            f"{place}: is at step {step}, past the end of run '{description.name}', which has {total} steps; resume "
            f"with a run of at least {step} steps"
        )
    prefix = description.prefix_fingerprint(step)
    if state["prefix_fingerprint"] != prefix:
        raise ForeignDataError(
            f"{place}: belongs to data with fingerprint {state['fingerprint']}, whose first {step} steps have prefix "
            f"fingerprint {state['prefix_fingerprint']}, but {location} has {description.fingerprint}, whose first "
            f"{step} steps have {prefix}; resume with the run that it was saved from, of which only later steps may be "
            "changed"
        )
    return step


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")
