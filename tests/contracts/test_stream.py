"""The contract of BatchStream, the same for a run file, a materialised folder, and a URL of two servers.

python -m pytest tests/contracts/test_stream.py
"""

from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fault_server import FaultServer
from tests.support.serving import running
from trainer_client import Batch, BatchStream
from tst_data import Dataset, Plan, load_run
from tst_data.errors import ForeignDataError, InvalidInputError, NotFoundError, TSTError
from tst_data.materialized.writer import materialize

BATCH_SIZE = 12
PHASES = [
    {"bag_size": 4, "steps": 3},
    {"bag_size": 3, "steps": 2, "superpose": "input"},
    {"bag_size": 2, "steps": 2, "superpose": "output", "sequence_length": 24},
    {"bag_size": 1, "steps": 4, "batch_size": 24},
]
NUM_STEPS = 11


@pytest.fixture(scope="module")
def run_file(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), tiny_dataset)


def write_run(folder: Path, dataset: Dataset, **settings: Any) -> Path:
    content = {
        "name": "contract",
        "datasets": [{"path": str(dataset.path)}],
        "sequence_length": 16,
        "batch_size": BATCH_SIZE,
        "seed": 3,
        "phases": PHASES,
        **settings,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def plan(run_file: Path) -> Iterator[Plan]:
    with Plan(load_run(run_file)) as plan:
        yield plan


@pytest.fixture(scope="module")
def sources(run_file: Path, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("materialized") / "out"
    materialize(plan, folder, shard_bytes=10_000)
    with FaultServer(plan) as faulty, running(run_file) as server:
        yield {"run file": run_file, "folder": folder, "url": faulty.url, "tst-serve": server.run_url}


@pytest.fixture(params=["run file", "folder", "url", "tst-serve"])
def source(request: pytest.FixtureRequest, sources: dict[str, Any]) -> Any:
    return sources[request.param]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert prefetch_threads() == []


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batch-prefetch")]


def same_as_plan(batch: Batch, plan: Plan, rank: int = 0, world_size: int = 1) -> bool:
    expected = plan.read_batch(batch.step, rank, world_size)
    return (
        batch.header == expected.header
        and np.array_equal(batch.windows.numpy(), expected.windows)
        and np.array_equal(batch.dataset, expected.dataset)
        and np.array_equal(batch.first_token, expected.first_token)
    )


def positions(batches: Any) -> list[tuple[int, int]]:
    return [(batch.step, batch.micro_batch) for batch in batches]


def chained(plan: Plan, steps: Any, rank: int = 0, world_size: int = 1) -> str:
    """The digest of whole steps, from its definition."""
    digest = "0" * 32
    for step in steps:
        checksum = plan.read_batch(step, rank, world_size).header.checksum
        digest = hashlib.blake2b(f"{digest}:{step}:0:{checksum}".encode(), digest_size=16).hexdigest()
    return digest


# What is delivered


@pytest.mark.parametrize("prefetch", [0, 2, 7])
def test_every_batch_comes_in_order_and_equals_the_plan(source: Any, plan: Plan, prefetch: int) -> None:
    with BatchStream(source, prefetch=prefetch) as stream:
        batches = list(stream)
    assert positions(batches) == [(step, 0) for step in range(NUM_STEPS)]
    assert all(same_as_plan(batch, plan) for batch in batches)
    assert batches[0].windows.dtype == torch.uint16
    assert [batch.phase for batch in batches] == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3]


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


# Where it is


def test_iterating_goes_on_from_where_it_is(source: Any) -> None:
    with BatchStream(source, micro_batches=2) as stream:
        for batch in stream:
            if (batch.step, batch.micro_batch) == (1, 0):
                break
        assert len(stream) == 2 * NUM_STEPS - 3
        assert positions(stream)[0] == (1, 1)
        assert len(stream) == 0
        assert list(stream) == []
        with pytest.raises(StopIteration):
            next(stream)


def test_seek_goes_anywhere(source: Any, plan: Plan) -> None:
    with BatchStream(source) as stream:
        for step in (7, 0, 10, 10, 3):
            stream.seek(step)
            batch = next(stream)
            assert batch.step == step
            assert same_as_plan(batch, plan)
        stream.seek(NUM_STEPS)
        assert list(stream) == []


def test_seek_in_mid_step_goes_to_its_beginning(source: Any) -> None:
    with BatchStream(source, micro_batches=3) as stream:
        next(stream)
        stream.seek(0)
        assert positions([next(stream)]) == [(0, 0)]


def test_state_is_never_ahead_of_what_was_delivered(source: Any, plan: Plan) -> None:
    with BatchStream(source, micro_batches=2, prefetch=5) as stream:
        assert stream.state_dict() == {"version": 1, "fingerprint": plan.fingerprint, "next_step": 0}
        for count in range(1, 7):
            next(stream)
            assert stream.state_dict()["next_step"] == stream.next_step == count // 2


@pytest.mark.parametrize("stopped_at", [0, 2, 3, 7, 11])
def test_a_state_loads_at_another_world_size_without_loss_or_repeat(source: Any, plan: Plan, stopped_at: int) -> None:
    first_tokens: list[int] = []
    states = []
    for rank in range(3):
        with BatchStream(source, rank=rank, world_size=3) as stream:
            for _ in range(stopped_at):
                first_tokens += next(stream).first_token.tolist()
            states.append(stream.state_dict())
    assert states[0] == states[1] == states[2]
    for rank in range(4):
        with BatchStream(source, rank=rank, world_size=4) as stream:
            stream.load_state_dict(states[0])
            for batch in stream:
                first_tokens += batch.first_token.tolist()
    expected = [token for step in range(NUM_STEPS) for token in plan.windows(step).first_token.tolist()]
    assert sorted(first_tokens) == sorted(expected)


def test_a_state_of_other_data_is_refused_with_both_fingerprints(source: Any, plan: Plan) -> None:
    with BatchStream(source) as stream:
        with pytest.raises(ForeignDataError) as caught:
            stream.load_state_dict({"version": 1, "fingerprint": "other-data", "next_step": 0})
        assert "other-data" in str(caught.value)
        assert plan.fingerprint in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"next_step": -1}, "next_step of state is -1"),
        ({"next_step": "4"}, "'4'"),
        ({"next_step": True}, "True"),
        ({"next_step": 12}, "past the end"),
        ({"version": 2}, "version 2"),
        ({"fingerprint": None}, "fingerprint None"),
    ],
)
def test_a_malformed_state_is_refused_and_changes_nothing(source: Any, change: dict[str, Any], message: str) -> None:
    with BatchStream(source, start_step=2) as stream:
        with pytest.raises(InvalidInputError, match=message):
            stream.load_state_dict(stream.state_dict() | change)
        for state in ({}, {"next_step": 1}, [], None):
            with pytest.raises(InvalidInputError, match="expected what state_dict"):
                stream.load_state_dict(state)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="digest"):
            stream.load_state_dict(stream.state_dict() | {"next_step": 5}, digest="xyz")
        assert next(stream).step == 2


# The digest


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
        for _ in range(7):  # in mid-step
            next(stream)
        state, digest = stream.state_dict(), stream.digest
        next(stream)
    with BatchStream(source, micro_batches=2) as stream:
        stream.load_state_dict(state, digest=digest)
        assert stream.digest == digest
        list(stream)
        assert stream.digest == undisturbed


def test_the_digest_tells_a_repeat_from_none(source: Any, plan: Plan) -> None:
    with BatchStream(source) as stream:
        next(stream)
        stream.seek(0)
        next(stream)
        assert stream.digest == chained(plan, [0, 0])


# State machine

OPERATIONS = st.lists(
    st.one_of(
        st.just(("next", 0)),
        st.just(("next", 0)),
        st.just(("save", 0)),
        st.just(("load", 0)),
        st.tuples(st.just("seek"), st.integers(0, NUM_STEPS)),
        st.just(("break", 0)),
    ),
    max_size=25,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS, micro_batches=st.sampled_from([1, 2, 3]), prefetch=st.sampled_from([0, 1, 3]))
def test_any_order_of_operations_follows_the_model(
    source: Any, plan: Plan, operations: list[tuple[str, int]], micro_batches: int, prefetch: int
) -> None:
    position = 0  # micro-batches from the beginning
    saved = None
    with BatchStream(source, micro_batches=micro_batches, prefetch=prefetch) as stream:
        for operation, step in operations:
            if operation == "next":
                batch = next(stream, None)
                if position == NUM_STEPS * micro_batches:
                    assert batch is None
                else:
                    assert batch is not None
                    assert (batch.step, batch.micro_batch) == divmod(position, micro_batches)
                    assert same_as_plan(batch, plan, batch.micro_batch, micro_batches)
                    position += 1
            elif operation == "seek":
                stream.seek(step)
                position = step * micro_batches
            elif operation == "save":
                saved = (stream.state_dict(), stream.digest, position // micro_batches)
            elif operation == "load" and saved is not None:
                stream.load_state_dict(saved[0], digest=saved[1])
                assert stream.digest == saved[1]
                position = saved[2] * micro_batches
            elif operation == "break":
                for _ in stream:
                    position += 1
                    break
            assert len(stream) == NUM_STEPS * micro_batches - position
            assert stream.state_dict()["next_step"] == position // micro_batches


# Numbers, ends and errors


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "world_size": 2}, r"rank: expected 0 to 1 for world_size 2 \(given: 2\)"),
        ({"rank": -1}, r"rank: expected 0 to 0 .*given: -1"),
        ({"rank": "0"}, "rank is '0'"),
        ({"world_size": 0}, r"world_size: expected at least 1 \(given: 0\)"),
        ({"world_size": 5}, "phase 0 .* batch size 12"),
        ({"rank": 0, "world_size": 24}, "phase 0 .* batch size 12"),
        ({"micro_batches": 0}, "micro_batches is 0"),
        ({"micro_batches": 5}, "micro_batches 5"),
        ({"micro_batches": 4, "world_size": 2}, "world_size 2 x micro_batches 4 = 8"),
        ({"start_step": -1}, "start_step is -1"),
        ({"start_step": 12}, "start_step is 12, past the end .* 0 to 11"),
        ({"start_step": 1.0}, "start_step is 1.0"),
        ({"prefetch": -1}, "prefetch is -1"),
        ({"prefetch": True}, "prefetch is True"),
        ({"timeout_seconds": 0}, "timeout_seconds is 0"),
        ({"timeout_seconds": -5}, "timeout_seconds is -5"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds is nan"),
        ({"timeout_seconds": "9"}, "timeout_seconds is '9'"),
        ({"device": "gpu0"}, "device is 'gpu0'"),
    ],
)
def test_bad_options_are_refused_in_one_line(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        BatchStream(source, **options)
    assert "\n" not in str(caught.value)


def test_seeking_past_the_end_is_refused(source: Any) -> None:
    with BatchStream(source) as stream:
        with pytest.raises(InvalidInputError, match="past the end"):
            stream.seek(NUM_STEPS + 1)
        with pytest.raises(InvalidInputError, match="step is -1"):
            stream.seek(-1)


def test_a_later_phase_that_cannot_be_shared_out_is_named_at_once(tiny_dataset: Dataset, tmp_path: Path) -> None:
    phases = [{"bag_size": 2, "steps": 1}, {"bag_size": 1, "steps": 1, "batch_size": 9}]
    with pytest.raises(InvalidInputError, match="phase 1 of run 'contract' has batch size 9"):
        BatchStream(write_run(tmp_path, tiny_dataset, phases=phases), rank=0, world_size=2)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("nowhere/run.yaml", NotFoundError, "'nowhere/run.yaml' does not exist"),
        ("ftp://host/v1/runs/x", InvalidInputError, "unknown scheme 'ftp'"),
        ("http://host:8000", InvalidInputError, "expected http"),
        ("http://host:8000/v1/runs/", InvalidInputError, "expected http"),
        ("http://host:99999/v1/runs/x", InvalidInputError, "not a URL"),
        (f"http://{'x' * 70}/v1/runs/x", InvalidInputError, "not a URL"),
        ("http:///v1/runs/x", InvalidInputError, "expected http"),
        ("http://host/v1/runs/x?rank=1", InvalidInputError, "expected http"),
        ("http://host/v1/runs/x y", InvalidInputError, "expected http"),
        (17, InvalidInputError, "source is 17"),
        (None, InvalidInputError, "source is None"),
    ],
)
def test_a_source_that_is_none_is_refused(given: Any, error: type[TSTError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        BatchStream(given, timeout_seconds=1)
    assert "\n" not in str(caught.value)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidInputError) as caught:
        BatchStream("http://user:hunter2@host/v1/runs/x")
    assert "hunter2" not in str(caught.value)


def test_a_folder_that_is_no_materialised_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"holds no run\.json"):
        BatchStream(tmp_path)


def test_coordinates_come_from_the_environment(source: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with BatchStream(source) as stream:
        assert same_as_plan(next(stream), plan, 2, 3)
    with BatchStream(source, rank=0, world_size=1) as stream:
        assert same_as_plan(next(stream), plan)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InvalidInputError, match="RANK is 'first'"):
        BatchStream(source)


def test_coordinates_come_from_torch_distributed_first(
    source: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with BatchStream(source) as stream:
            assert (stream.rank, stream.world_size) == (0, 1)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["run file", "url"])
def test_an_open_stream_does_not_hold_the_interpreter_back(sources: dict[str, Any], kind: str) -> None:
    code = (
        "import sys; from trainer_client import BatchStream\n"
        "stream = BatchStream(sys.argv[1], prefetch=3); next(stream); print(stream.next_step)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(sources[kind])], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "1", "")
