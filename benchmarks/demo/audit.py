"""What happened to every step and every window, checked from outside.

The trainer's records are compared with the plan, which this process computes again from the run file and the datasets.
The server is not asked, and of the trainer only what it wrote to its log and its final report is used.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tst_data.plan.plan import Plan

__all__ = ["Comparison", "RunAudit", "audit_run", "chained_digest", "compare_losses", "repeated_tokens", "step_counts"]


@dataclass(frozen=True, kw_only=True)
class RunAudit:
    """One run. `lost` and `repeated` count steps in the records; the digests compare the bytes of the batches."""

    run: str
    steps: int
    windows: int
    tokens: int
    lost: int
    repeated: int
    digest_given: str
    """A chain over the checksums of all batches that the trainer received, through its restarts."""
    digest_planned: str
    """The same chain over the batches of the plan."""
    tokens_repeated: int
    """Tokens that are an input more than once, in all windows of the run."""

    @property
    def passed(self) -> bool:
        return not (self.lost or self.repeated or self.tokens_repeated) and self.digest_given == self.digest_planned

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The recorded losses of some steps, compared with losses that should be the same."""

    first_step: int
    num_steps: int
    num_equal: int
    largest_difference: float
    missing: int

    @property
    def identical(self) -> bool:
        return self.num_steps > 0 and self.missing == 0 and self.num_equal == self.num_steps

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "identical": self.identical}


def step_counts(records: Sequence[Mapping[str, Any]], num_steps: int) -> tuple[int, int]:
    """How many of the steps 0 .. num_steps - 1 have no record, and how many records are repeated."""
    times = Counter(record["step"] for record in records if record["event"] == "step")
    lost = sum(1 for step in range(num_steps) if not times[step])
    return lost, sum(times.values()) - (num_steps - lost)


def chained_digest(digest: str, step: int, checksum: str) -> str:
    """The digest of `BatchStream` after one more step of one micro-batch. Written a second time here on purpose."""
    return hashlib.blake2b(f"{digest}:{step}:0:{checksum}".encode(), digest_size=16).hexdigest()


def repeated_tokens(first_tokens: NDArray[np.integer[Any]], lengths: NDArray[np.int64]) -> int:
    """How many tokens of the ranges [first, first + length) are also in a range that begins earlier."""
    order = np.argsort(first_tokens, kind="stable")
    begins, lengths = first_tokens[order].astype(np.int64), lengths[order]
    ends = np.maximum.accumulate(begins + lengths)
    return int(np.clip(ends[:-1] - begins[1:], 0, lengths[1:]).sum())


def audit_run(
    plan: Plan, records: Sequence[Mapping[str, Any]], digest_given: str, progress: Callable[[int], None]
) -> RunAudit:
    """Compare a run's records and digest with its plan. The run has one dataset and reads at most one epoch of it."""
    digest = "0" * 32
    first_tokens: list[NDArray[np.integer[Any]]] = []
    lengths: list[NDArray[np.int64]] = []
    for step in range(plan.num_steps):
        batch = plan.read_batch(step)
        digest = chained_digest(digest, step, batch.header.checksum)
        first_tokens.append(batch.first_token)
        lengths.append(np.full(len(batch.windows), plan.phase(step).geometry.advance, dtype=np.int64))
        progress(step + 1)
    lost, repeated = step_counts(records, plan.num_steps)
    read = np.concatenate(lengths)
    return RunAudit(
        run=plan.run.name,
        steps=plan.num_steps,
        windows=len(read),
        tokens=int(read.sum()),
        lost=lost,
        repeated=repeated,
        digest_given=digest_given,
        digest_planned=digest,
        tokens_repeated=repeated_tokens(np.concatenate(first_tokens), read),
    )


def compare_losses(recorded: Mapping[int, float], expected: Mapping[int, float]) -> Comparison:
    """Whether the recorded losses of the expected steps are exactly the same floating-point numbers."""
    differences = [abs(recorded[step] - loss) for step, loss in expected.items() if step in recorded]
    return Comparison(
        first_step=min(expected, default=0),
        num_steps=len(expected),
        num_equal=sum(1 for step, loss in expected.items() if recorded.get(step) == loss),
        largest_difference=max(differences, default=0.0),
        missing=len(expected) - len(differences),
    )
