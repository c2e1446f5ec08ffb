"""What every source delivers: the batches of the plan, in order, with the digest of what was given.

python -m pytest tests/contracts/test_stream.py
"""

from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from tests.contracts.conftest import NUM_STEPS
from tests.support.streams import prefetch_threads, same_as_plan
from trainer_client import Batch, BatchStream
from tst_data import Plan
from tst_data.errors import InvalidInputError

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def chained(plan: Plan, steps: Any, rank: int = 0, world_size: int = 1) -> str:
    """The digest of whole steps, from its definition."""
    digest = "0" * 32
    for step in steps:
        checksum = plan.read_batch(step, rank, world_size).header.checksum
        digest = hashlib.blake2b(f"{digest}:{step}:0:{checksum}".encode(), digest_size=16).hexdigest()
    return digest


def positions(batches: Any) -> list[tuple[int, int]]:
    return [(batch.step, batch.micro_batch) for batch in batches]


@pytest.mark.parametrize("prefetch", [0, 2, 7])
def test_every_batch_comes_in_order_and_equals_the_plan(source: Any, plan: Plan, prefetch: int) -> None:
    with BatchStream(source, prefetch=prefetch) as stream:
        batches = list(stream)
    assert positions(batches) == [(step, 0) for step in range(NUM_STEPS)]
    assert all(same_as_plan(batch, plan) for batch in batches)
    assert batches[0].windows.dtype == torch.uint16
    assert [batch.phase for batch in batches] == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3]


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 3), (2, 1), (2, 3), (3, 2), (12, 1)])
def test_ranks_and_micro_batches_share_a_step_out(source: Any, plan: Plan, world_size: int, micro_batches: int) -> None:
    received: dict[int, list[Batch]] = {step: [] for step in range(NUM_STEPS)}
    for rank in range(world_size):
        with BatchStream(source, rank=rank, world_size=world_size, micro_batches=micro_batches) as stream:
            assert len(stream) == NUM_STEPS * micro_batches
            batches = list(stream)
        assert positions(batches) == [(step, i) for step in range(NUM_STEPS) for i in range(micro_batches)]
        for batch in batches:
            share = rank * micro_batches + batch.micro_batch
            assert same_as_plan(batch, plan, share, world_size * micro_batches)
            received[batch.step].append(batch)
    for step, batches in received.items():
        windows = torch.cat([batch.windows for batch in batches])
        assert np.array_equal(windows.numpy(), plan.read_batch(step).windows)


def test_a_start_step(source: Any, plan: Plan) -> None:
    with BatchStream(source, start_step=4) as stream:
        assert len(stream) == NUM_STEPS - 4
        assert same_as_plan(next(stream), plan)
    with BatchStream(source, start_step=NUM_STEPS) as stream:
        assert list(stream) == []


def test_batches_stay_what_they_are_while_others_come(source: Any, plan: Plan) -> None:
    with BatchStream(source, prefetch=3) as stream:
        kept = [next(stream) for _ in range(4)]
        before = [batch.windows.clone() for batch in kept]
        list(stream)
    assert all(torch.equal(batch.windows, was) for batch, was in zip(kept, before, strict=True))
    kept[0].windows.fill_(0)  # their memory is the trainer's, to write as well


def test_the_digest_chains_what_was_delivered(source: Any, plan: Plan) -> None:
    for rank in range(2):
        with BatchStream(source, rank=rank, world_size=2) as stream:
            list(stream)
            assert stream.digest == stream.stats()["digest"] == chained(plan, range(NUM_STEPS), rank, 2)


def test_a_resumed_digest_equals_an_undisturbed_one(source: Any) -> None:
    with BatchStream(source, micro_batches=2) as stream:
        list(stream)
        undisturbed = stream.digest
    with BatchStream(source, micro_batches=2) as stream:
        for _ in range(7):  # in the middle of a step
            next(stream)
        state, digest = stream.state_dict(), stream.digest
        next(stream)
    with BatchStream(source, micro_batches=2) as stream:
        stream.load_state_dict(state, digest=digest)
        assert stream.digest == digest
        list(stream)
        assert stream.digest == undisturbed


def test_the_digest_shows_a_repeat(source: Any, plan: Plan) -> None:
    with BatchStream(source) as stream:
        next(stream)
        stream.seek(0)
        next(stream)
        assert stream.digest == chained(plan, [0, 0])


def test_stats_count_what_was_delivered(source: Any) -> None:
    with BatchStream(source, micro_batches=2) as stream:
        for _ in range(5):
            next(stream)
        stats = stream.stats()
    assert stats["batches"] == 5
    assert stats["steps"] == stats["next_step"] == 2
    assert stats["tokens"] == 5 * 6 * 64
    assert stats["latent_positions"] == 5 * 6 * 16
    assert stats["bytes"] >= 5 * 6 * 65 * 2
    assert stats["wait_seconds"] > 0
    assert stats["retries"] == 0


def test_the_description_is_that_of_the_plan(source: Any, plan: Plan) -> None:
    with BatchStream(source) as stream:
        assert stream.description == plan.describe()


def test_a_closed_stream_says_so_and_keeps_its_state(source: Any) -> None:
    stream = BatchStream(source)
    batch = next(stream)
    stream.close()
    stream.close()
    assert prefetch_threads() == []
    assert batch.inputs.shape == (12, 16, 4)
    assert stream.state_dict()["next_step"] == 1
    for use in (lambda: next(stream), lambda: stream.seek(0), lambda: stream.load_state_dict(stream.state_dict())):
        with pytest.raises(InvalidInputError, match="closed"):
            use()


@pytest.mark.slow
def test_a_dropped_stream_ends_its_threads(source: Any) -> None:
    stream = BatchStream(source)
    next(stream)
    assert prefetch_threads()
    del stream
    gc.collect()
    assert prefetch_threads() == []


def test_a_device_is_where_inputs_are_made(source: Any) -> None:
    with BatchStream(source, device="meta") as stream:
        assert next(stream).targets.device.type == "meta"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run file", "url"])
def test_an_open_stream_does_not_hold_the_interpreter_back(sources: dict[str, Any], kind: str) -> None:
    code = (
        "import sys; from trainer_client import BatchStream\n"
        "stream = BatchStream(sys.argv[1], prefetch=3); next(stream); print(stream.next_step)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(sources[kind])], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "1", "")
