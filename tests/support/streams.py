"""What tests ask of a BatchStream: that its batches are the plan's, and that it leaves no thread running."""

from __future__ import annotations

import threading

import numpy as np

from trainer_client import Batch, BatchStream
from tst_data import Plan


def same_as_plan(batch: Batch, plan: Plan, rank: int = 0, world_size: int = 1) -> bool:
    """Whether a batch equals what the plan gives for its step, in header, windows and origins."""
    expected = plan.read_batch(batch.step, rank, world_size)
    return (
        batch.header == expected.header
        and np.array_equal(batch.windows.numpy(), expected.windows)
        and np.array_equal(batch.dataset, expected.dataset)
        and np.array_equal(batch.first_token, expected.first_token)
    )


def rest_is_the_plans(stream: BatchStream, plan: Plan) -> bool:
    """Whether all that the stream still gives are the remaining steps of the plan, in order."""
    first = stream.next_step
    batches = list(stream)
    return [batch.step for batch in batches] == list(range(first, plan.num_steps)) and all(
        same_as_plan(batch, plan) for batch in batches
    )


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batch-prefetch")]


def one_line(error: BaseException, *parts: str) -> None:
    """Assert that a message is one line with these parts and without a stack trace."""
    text = str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    for part in parts:
        assert part in text
