"""Where a stream of any source is: iterating, seeking, saving and loading its state.

python -m pytest tests/contracts/test_stream_position.py
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contracts.conftest import NUM_STEPS
from tests.support.streams import one_line, same_as_plan
from trainer_client import BatchStream
from tst_data import Plan
from tst_data.errors import ForeignDataError, InvalidInputError

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


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


def positions(batches: Any) -> list[tuple[int, int]]:
    return [(batch.step, batch.micro_batch) for batch in batches]


def test_iterating_continues_from_where_it_is(source: Any) -> None:
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


def test_seek_within_a_step_goes_to_its_beginning(source: Any) -> None:
    with BatchStream(source, micro_batches=3) as stream:
        next(stream)
        stream.seek(0)
        assert positions([next(stream)]) == [(0, 0)]


def test_seeking_past_the_end_is_refused(source: Any) -> None:
    with BatchStream(source) as stream:
        with pytest.raises(InvalidInputError, match="past the end"):
            stream.seek(NUM_STEPS + 1)
        with pytest.raises(InvalidInputError, match=r"step: expected at least 0 \(given: -1\)"):
            stream.seek(-1)


def test_state_is_never_ahead_of_what_was_delivered(source: Any, plan: Plan) -> None:
    with BatchStream(source, micro_batches=2, prefetch=5) as stream:
        for count in range(1, 7):
            next(stream)
            step = count // 2
            assert stream.next_step == step
            assert stream.state_dict() == {
                "version": 2,
                "fingerprint": plan.fingerprint,
                "prefix_fingerprint": plan.describe().prefix_fingerprint(step),
                "next_step": step,
            }


@pytest.mark.slow
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
            stream.load_state_dict(
                {"version": 2, "fingerprint": "other-data", "prefix_fingerprint": "other-steps", "next_step": 0}
            )
        one_line(caught.value, "other-data", "other-steps", plan.fingerprint, plan.describe().prefix_fingerprint(0))


def test_a_state_of_order_version_1_is_refused_by_name(source: Any, plan: Plan) -> None:
    with BatchStream(source) as stream:
        with pytest.raises(ForeignDataError) as caught:
            stream.load_state_dict({"version": 1, "fingerprint": plan.fingerprint, "next_step": 3})
        one_line(caught.value, "state: was drawn in order version 1, but this version of the package draws in order v")
        assert stream.next_step == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"next_step": -1}, r"next_step of state: expected at least 0 \(given: -1\)"),
        ({"next_step": "4"}, "'4'"),
        ({"next_step": True}, r"next_step of state: expected a whole number \(given: true\)"),
        ({"next_step": 12}, "past the end"),
        ({"next_step": "999" * 100}, "'999999"),
        ({"version": 3}, "version 3, expected 2"),
        ({"version": True}, "version true, expected 2"),
        ({"fingerprint": None}, "fingerprint null"),
        ({"prefix_fingerprint": 7}, "prefix_fingerprint 7"),
    ],
)
def test_a_malformed_state_is_refused_and_changes_nothing(source: Any, change: dict[str, Any], message: str) -> None:
    with BatchStream(source, start_step=5) as stream:
        later = stream.state_dict()
        stream.seek(2)
        with pytest.raises(InvalidInputError, match=message):
            stream.load_state_dict(stream.state_dict() | change)
        wrong: tuple[Any, ...] = ({}, {"next_step": 1}, [], None)
        for state in wrong:
            with pytest.raises(InvalidInputError, match="pass what state_dict"):
                stream.load_state_dict(state)
        with pytest.raises(InvalidInputError, match="digest"):
            stream.load_state_dict(later, digest="xyz")
        assert next(stream).step == 2


@pytest.mark.slow
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
