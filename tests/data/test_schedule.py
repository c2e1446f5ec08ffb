"""The plan's rules, over thousands of random runs, without a file. python -m pytest tests/data/test_schedule.py"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.order_oracle import Oracle
from tst_data.contract.bags import BagGeometry
from tst_data.contract.shares import share_of_rank
from tst_data.errors import InvalidInputError, NotFoundError
from tst_data.plan.order import DatasetOrder
from tst_data.plan.permutation import permute
from tst_data.plan.schedule import MAX_PHASES_IN_GROUP, Schedule
from tst_data.run.specification import RunSpecification
from tst_data.run.weights import thousandths

Case = tuple[dict[str, Any], list[NDArray[np.int64]]]

CI = settings(max_examples=1000)
"""Random runs that are compared with the oracle."""


@st.composite
def phases(draw: st.DrawFn, num_datasets: int) -> dict[str, Any]:
    weights = draw(st.lists(st.sampled_from([0, 1, 2.5]), min_size=num_datasets, max_size=num_datasets))
    assume(sum(weights) > 0)
    return {
        "bag_size": draw(st.integers(1, 6)),
        "steps": draw(st.integers(1, 6)),
        "superpose": draw(st.sampled_from(["both", "input", "output"])),
        "batch_size": draw(st.integers(1, 12)),
        "sequence_length": draw(st.integers(1, 8)),
        "weights": weights,
    }


@st.composite
def shards(draw: st.DrawFn) -> NDArray[np.int64]:
    """Token counts of a dataset's shards: odd ones, some too short for a window, at least one of 60 tokens.

    Now and then there are more than 64 shards, or a shard with more windows than a sorted table holds.
    """
    few = draw(st.lists(st.integers(1, 200), max_size=9))
    more = draw(st.sampled_from([[], [], [], [], [2500], [3] * 62]))
    return np.array([*few, 60, *more])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A run and the token counts of its shards; windows fit into at least one shard of every dataset."""
    num_datasets = draw(st.integers(1, 3))
    content = {
        "name": "r",
        "datasets": [{"path": str(i)} for i in range(num_datasets)],
        "sequence_length": 4,
        "batch_size": 4,
        "seed": draw(st.integers(0, 2**64 - 1)),
        "shuffle_group": draw(st.sampled_from([1, 2, 3, 4, 5, 7, 64, 65, "all"])),
        "phases": draw(st.lists(phases(num_datasets), min_size=1, max_size=4)),
    }
    return content, [draw(shards()) for _ in range(num_datasets)]


def make(content: dict[str, Any], shard_tokens: list[NDArray[np.int64]]) -> Schedule:
    return Schedule(RunSpecification.model_validate(content), shard_tokens)


def rows(schedule: Schedule, step: int) -> list[tuple[int, int]]:
    windows = schedule.windows(step)
    return list(zip(windows.dataset.tolist(), windows.first_token.tolist(), strict=True))


def make_both(case: Case) -> tuple[Schedule, Oracle]:
    """The schedule of a run, and the oracle, which says the same of every step."""
    schedule, oracle = make(*case), Oracle(case[0], [tokens.tolist() for tokens in case[1]])
    assert schedule.num_steps == len(oracle.steps)
    for step in range(schedule.num_steps):
        assert rows(schedule, step) == oracle.rows(step)
    return schedule, oracle


@pytest.mark.slow
@given(case=cases(), order=st.randoms())
def test_steps_do_not_depend_on_the_order_they_are_asked_in(case: Any, order: Any) -> None:
    straight = make(*case)
    in_order = [rows(straight, step) for step in range(straight.num_steps)]
    steps = list(range(straight.num_steps))
    order.shuffle(steps)
    other = make(*case)
    for step in steps:
        assert rows(other, step) == in_order[step]


@pytest.mark.slow
@given(case=cases())
def test_a_step_has_its_batch_and_each_window_is_in_one_shard(case: Any) -> None:
    content, shard_tokens = case
    schedule = make(content, shard_tokens)
    for step in range(schedule.num_steps):
        phase = schedule.phase(step)
        windows = rows(schedule, step)
        assert len(windows) == phase.batch_size
        for dataset, first in windows:
            ends = np.cumsum(shard_tokens[dataset])
            shard = int(np.searchsorted(ends, first, side="right"))
            assert first + phase.window_length <= ends[shard]


@pytest.mark.slow
@CI
@given(case=cases())
def test_exactly_once(case: Case) -> None:
    """Per dataset and epoch no token is an input twice over all phases, and what is left out was counted.

    All windows are the oracle's, and only it counts here.
    """
    schedule, oracle = make_both(case)
    assert all(max(tokens.values()) == 1 for tokens in oracle.inputs.values())
    uses = schedule.uses()
    assert [(use.phase, use.dataset) for use in uses] == sorted(oracle.uses)
    for use in uses:
        counted = oracle.uses[use.phase, use.dataset]
        assert (use.windows, use.begun, use.repeated) == (counted.windows, counted.begun, counted.repeated)
        assert use.passed_over_at_ends == counted.skipped_at_ends
        assert use.passed_over_at_switch == counted.skipped_at_switch
        assert use.first_epoch == pytest.approx(counted.first_epoch)
        assert use.last_epoch == pytest.approx(counted.last_epoch)
    for dataset, order in enumerate(schedule.orders):
        of_dataset = [use for use in uses if use.dataset == dataset]
        if not of_dataset:
            continue
        read = sum(len(tokens) for (of, _), tokens in oracle.inputs.items() if of == dataset)
        assert read == sum(use.tokens for use in of_dataset)
        skipped = sum(use.passed_over_at_ends + use.passed_over_at_switch for use in of_dataset)
        assert read + skipped == pytest.approx(of_dataset[-1].last_epoch * order.num_tokens, abs=0.01)


@given(case=cases())
def test_whole_epochs_skip_no_more_than_shard_ends(case: Case) -> None:
    """A run of one phase reads, in every whole epoch, each window that the shards hold, once."""
    content, shard_tokens = case
    content["phases"] = content["phases"][:1]
    schedule, oracle = make_both(case)
    geometry = schedule.phases[0].geometry
    last = {use.dataset: int(use.last_epoch) for use in schedule.uses()}
    for (dataset, epoch), tokens in oracle.inputs.items():
        if epoch < last[dataset]:
            assert len(tokens) == geometry.num_windows(shard_tokens[dataset]).sum() * geometry.advance


def assert_same_before(before: Case, after: dict[str, Any], step: int) -> None:
    """A run that was changed after a step has the same steps before it, is the oracle's, and has the same prefix."""
    content, shard_tokens = before
    changed, oracle = make_both((after, shard_tokens))
    schedule = make(content, shard_tokens)
    assert all(rows(schedule, each) == rows(changed, each) for each in range(step))
    assert all(max(tokens.values()) == 1 for tokens in oracle.inputs.values())
    assert prefix(content, step) == prefix(after, step)


def prefix(content: dict[str, Any], step: int) -> str:
    datasets = [dataset["path"] for dataset in content["datasets"]]
    return RunSpecification.model_validate(content).prefix_fingerprint(datasets, step)


def with_phase(content: dict[str, Any], index: int, **changes: Any) -> dict[str, Any]:
    changed = list(content["phases"])
    changed[index] = {**changed[index], **changes}
    return {**content, "phases": changed}


def first_step_after(content: dict[str, Any], phase: int) -> int:
    return sum(each["steps"] for each in content["phases"][: phase + 1])


@given(case=cases(), more=st.integers(1, 50))
def test_extending_the_last_phase_changes_no_step_before(case: Case, more: int) -> None:
    content, last = case[0], len(case[0]["phases"]) - 1
    extended = with_phase(content, last, steps=content["phases"][last]["steps"] + more)
    assert_same_before(case, extended, first_step_after(content, last))


@given(case=cases(), data=st.data())
def test_ending_a_phase_earlier_changes_no_step_before(case: Case, data: st.DataObject) -> None:
    content = case[0]
    index = data.draw(st.integers(0, len(content["phases"]) - 1))
    steps = data.draw(st.integers(1, content["phases"][index]["steps"]))
    earlier = with_phase(content, index, steps=steps)
    assert_same_before(case, earlier, first_step_after(earlier, index))


@pytest.mark.slow
@given(case=cases(), data=st.data())
def test_another_later_phase_changes_no_step_before(case: Case, data: st.DataObject) -> None:
    content, shard_tokens = case
    kept = data.draw(st.integers(1, len(content["phases"])))
    other = {**content, "phases": [*content["phases"][:kept], data.draw(phases(len(shard_tokens)))]}
    assert_same_before(case, other, first_step_after(content, kept - 1))


@given(case=cases(), shard_tokens=shards())
def test_a_dataset_that_joins_later_changes_no_step_before(case: Case, shard_tokens: NDArray[np.int64]) -> None:
    content, tokens = case
    before = [{**phase, "weights": [*phase["weights"], 0]} for phase in content["phases"]]
    added = {**before[-1], "weights": [*[1] * len(tokens), 1]}
    joined = {**content, "datasets": [*content["datasets"], {"path": "more"}], "phases": [*before, added]}
    old, new = make(content, tokens), make(joined, [*tokens, shard_tokens])
    assert prefix(content, old.num_steps) == prefix(joined, old.num_steps)
    assert prefix(content, old.num_steps) != prefix(joined, old.num_steps + 1)
    assert all(rows(old, step) == rows(new, step) for step in range(old.num_steps))


@pytest.mark.slow
@given(case=cases(), data=st.data())
def test_runs_with_equal_prefixes_have_equal_steps(case: Case, data: st.DataObject) -> None:
    """Any change to any phase: as long as the prefix fingerprint says that the steps are equal, they are."""
    content, shard_tokens = case
    index = data.draw(st.integers(0, len(content["phases"]) - 1))
    other = data.draw(phases(len(shard_tokens)))
    keys = data.draw(st.sets(st.sampled_from(sorted(other)), min_size=1))
    changed = with_phase(content, index, **{key: other[key] for key in keys})
    before, after = make(content, shard_tokens), make(changed, shard_tokens)
    same = [step for step in range(after.num_steps + 1) if prefix(content, step) == prefix(changed, step)]
    assert same == list(range(len(same)))  # what differs once differs from there on
    num_same = len(same) - 1  # -1 where the first phase draws from other datasets
    assert num_same >= min(after.num_steps, before.phases[index].first_step) or index == 0
    assert all(rows(before, step) == rows(after, step) for step in range(min(num_same, before.num_steps)))


@given(batch_size=st.integers(1, 400))
def test_ranks_share_out_the_step_for_every_divisor(batch_size: int) -> None:
    whole = list(range(batch_size))
    for world_size in range(1, batch_size + 1):
        if batch_size % world_size == 0:
            shares = [whole[share_of_rank(batch_size, rank, world_size)] for rank in range(world_size)]
            assert [row for share in shares for row in share] == whole
        else:
            with pytest.raises(InvalidInputError, match=f"does not divide the batch size {batch_size}"):
                share_of_rank(batch_size, 0, world_size)


@given(world_size=st.integers(1, 12), micro_batches=st.integers(1, 12))
def test_micro_batches_are_ranks_of_a_larger_world(world_size: int, micro_batches: int) -> None:
    """Rank r·a + i of w·a, i = 0 .. a-1, are together rank r of w, in order: so accumulation changes no batch."""
    whole = list(range(world_size * micro_batches * 3))
    for rank in range(world_size):
        parts = [
            whole[share_of_rank(len(whole), rank * micro_batches + i, world_size * micro_batches)]
            for i in range(micro_batches)
        ]
        assert [row for part in parts for row in part] == whole[share_of_rank(len(whole), rank, world_size)]


@pytest.mark.parametrize(("rank", "world_size"), [(-1, 1), (1, 1), (4, 4), (0, 0), (0, -2)])
def test_impossible_ranks_are_refused(rank: int, world_size: int) -> None:
    with pytest.raises(InvalidInputError):
        share_of_rank(4, rank, world_size)


@pytest.mark.slow
@given(case=cases())
def test_every_thousand_windows_of_a_phase_hold_the_mixture(case: Any) -> None:
    content, shard_tokens = case
    phase = {**content["phases"][0], "batch_size": 250, "steps": 8}
    schedule = make({**content, "phases": [phase]}, shard_tokens)
    counts = thousandths(phase["weights"])
    for begin in (0, 4):
        datasets = Counter(dataset for step in range(begin, begin + 4) for dataset, _ in rows(schedule, step))
        assert [datasets[i] for i in range(len(counts))] == list(counts)


@pytest.mark.parametrize("step", [-1, 10, 10**30])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    schedule = small_schedule()
    with pytest.raises(NotFoundError, match=r"run 'r': has no step .*; choose 0 to 9"):
        schedule.windows(step)


def test_a_window_larger_than_every_shard_is_refused() -> None:
    with pytest.raises(
        InvalidInputError, match=r"'phases.1': needs windows of 401 tokens, but the longest .* holds 400"
    ):
        small_schedule(phases=[{"bag_size": 1, "steps": 1}, {"bag_size": 100, "steps": 1}])


def small_schedule(**changes: Any) -> Schedule:
    content = {
        "name": "r", "datasets": [{"path": "d"}], "sequence_length": 4, "batch_size": 8, "seed": 3,
        "phases": [{"bag_size": 3, "steps": 4}, {"bag_size": 1, "steps": 6}],
    }  # fmt: skip
    return make(content | changes, [np.array([400, 400, 100])])


@pytest.mark.parametrize(
    ("before", "after", "share"), [(6, 1, 0.0), (6, 3, 0.0), (5, 3, 2 / 5), (1, 2, 1.0), (4, 4, 0.0)]
)
def test_what_the_switch_skips(before: int, after: int, share: float) -> None:
    """The table in docs/concepts/pure-batches.md#phases: from nothing to all that is left in the begun group."""
    L = 4
    tokens = 60 * L + 1
    content = {
        "name": "r", "datasets": [{"path": "d"}], "sequence_length": L, "batch_size": 1,
        "phases": [{"bag_size": before, "steps": 4}, {"bag_size": after, "steps": 1}],
    }  # fmt: skip
    use = make(content, [np.array([tokens])]).uses()[1]
    left = tokens - 1 - 4 * before * L
    assert use.passed_over_at_switch == round(share * left)


def run_of(phases: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "name": "r",
        "datasets": [{"path": "d"}],
        "sequence_length": 1,
        "batch_size": 1,
        "phases": phases,
        **changes,
    }


def test_a_lookahead_longer_than_the_windows_before_skips_no_epoch() -> None:
    """Windows of one token are left; the new ones need a lookahead of five. Only what is left is skipped."""
    phases: list[dict[str, Any]] = [{"bag_size": 1, "steps": 1}, {"bag_size": 5, "steps": 3, "superpose": "output"}]
    schedule, _ = make_both((run_of(phases, shuffle_group=1), [np.array([5, 20, 20])]))
    first, second = schedule.uses()
    assert second.passed_over_at_switch == {5: 3, 20: 18}[first.begun]
    assert second.last_epoch < 1


@pytest.mark.parametrize(
    ("num_shards", "shuffle_group", "sizes"),
    [
        (65, 64, [32, 33]),
        (64, 64, [64]),
        (129, 64, [43, 43, 43]),
        (10, 4, [3, 3, 4]),
        (7, 2, [1, 2, 2, 2]),
        (3, 1, [1, 1, 1]),
        (9, "all", [9]),
        (9, 1 << 62, [9]),
    ],
)
def test_groups_are_equal_to_within_one_shard(num_shards: int, shuffle_group: int | str, sizes: list[int]) -> None:
    """An epoch of windows, one to a shard: those of a group come together, whatever else the order is."""
    content = run_of([{"bag_size": 1, "steps": num_shards}], shuffle_group=shuffle_group)
    schedule, _ = make_both((content, [np.full(num_shards, 2)]))
    assert np.diff(schedule.orders[0].group_begins).tolist() == sizes
    line = [first // 2 for step in range(num_shards) for _, first in rows(schedule, step)]
    by_epoch = schedule.orders[0].shards_of_epoch(0).tolist()
    begin = 0
    for size in sizes:
        assert sorted(line[begin : begin + size]) == sorted(by_epoch[begin : begin + size])
        begin += size


def test_a_step_costs_one_bijection_for_each_phase_in_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 phases may draw from one group; the last of them finds its windows with 64 bijections."""
    calls = 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return permute(*arguments)

    content = run_of([{"bag_size": 1, "steps": 1}] * MAX_PHASES_IN_GROUP)
    schedule, _ = make_both((content, [np.array([100])]))
    monkeypatch.setattr("tst_data.plan.order.permute", counted)
    schedule.windows(MAX_PHASES_IN_GROUP - 1)
    assert calls == MAX_PHASES_IN_GROUP == 64


def test_more_phases_in_one_group_are_refused() -> None:
    content = run_of([{"bag_size": 1, "steps": 1}] * (MAX_PHASES_IN_GROUP + 1))
    with pytest.raises(
        InvalidInputError,
        match=r"^'phases\.64': is the 65th phase .* dataset 'd', expected at most 64; merge phases, or",
    ):
        make(content, [np.array([100])])
    content["phases"].insert(40, {"bag_size": 1, "steps": 60})  # ends in the next epoch, which begins another group
    make_both((content, [np.array([100])]))


def test_phases_that_do_not_draw_from_a_group_do_not_count() -> None:
    """Two hundred phases, of which ten draw from the one group of the first dataset."""
    phases: list[dict[str, Any]] = [
        {"bag_size": 1, "steps": 1, "weights": [0, 1] if phase % 20 else [1, 0]} for phase in range(200)
    ]
    content = run_of(phases, datasets=[{"path": "a"}, {"path": "b"}], shuffle_group=1)
    make_both((content, [np.array([100]), np.full(100, 6)]))


@pytest.mark.slow
def test_thousands_of_phases_over_many_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening costs O(phases): a phase looks only at the group in which it begins."""
    calls = 0
    pool = DatasetOrder._pool

    def counted(self: DatasetOrder, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return pool(self, *arguments)

    monkeypatch.setattr(DatasetOrder, "_pool", counted)
    num_phases = 3000
    content = run_of([{"bag_size": 1, "steps": 1}] * num_phases, sequence_length=2, shuffle_group=1)
    schedule = make(content, [np.full(num_phases // 30, 61)])
    assert calls <= num_phases
    starts = [first for step in range(num_phases) for _, first in rows(schedule, step)]
    assert len(set(starts)) == num_phases


def test_where_a_phase_begins_and_ends_in_a_dataset() -> None:
    """Ten windows an epoch: a run that ends with the first epoch repeats nothing, one window more does."""
    content: dict[str, Any] = {
        "name": "r", "datasets": [{"path": "d"}], "sequence_length": 4, "batch_size": 1,
        "phases": [{"bag_size": 1, "steps": 4}, {"bag_size": 1, "steps": 6}],
    }  # fmt: skip
    first, second = make(content, [np.array([41])]).uses()
    assert (first.first_epoch, second.last_epoch) == (0.0, 1.0)
    assert first.last_epoch == second.first_epoch == pytest.approx(17 / 41)  # the last token is skipped at once
    assert not second.repeated
    content["phases"][1] = {"bag_size": 1, "steps": 7}
    assert make(content, [np.array([41])]).uses()[1].repeated


def test_golden_windows() -> None:
    """Pins shard order, group draws, leftovers, mixture and row order: a change needs a new ORDER_VERSION."""
    content = {
        "name": "r", "datasets": [{"path": "a", "weight": 3}, {"path": "b"}], "sequence_length": 16, "batch_size": 8,
        "seed": 17, "shuffle_group": 2,
        "phases": [
            {"bag_size": 4, "steps": 9},
            {"bag_size": 2, "steps": 9, "superpose": "output"},
            {"bag_size": 1, "steps": 9, "weights": [1, 1]},
        ],
    }  # fmt: skip
    schedule, _ = make_both((content, [np.array([900, 1100, 1000, 800, 300]), np.array([2000, 70])]))
    assert {step: rows(schedule, step) for step in GOLDEN} == GOLDEN


GOLDEN: dict[int, list[tuple[int, int]]] = {
    0: [(0, 900), (1, 1088), (0, 964), (0, 1732), (1, 640), (0, 1028), (0, 1860), (0, 1092)],
    8: [(0, 2512), (0, 3384), (0, 2576), (1, 512), (1, 384), (0, 3704), (0, 3320), (0, 3000)],
    9: [(0, 2336), (0, 2848), (0, 2160), (1, 1440), (0, 2704), (0, 2208), (0, 3256), (1, 1808)],
    17: [(0, 1572), (0, 1124), (1, 1728), (0, 1300), (0, 1220), (0, 1860), (0, 1028), (1, 224)],
    18: [(0, 1476), (1, 480), (0, 1332), (1, 320), (0, 1252), (1, 1824), (1, 576), (0, 1588)],
    26: [(1, 1648), (1, 160), (0, 1012), (0, 1700), (1, 32), (0, 1556), (0, 1908), (1, 208)],
}


def test_neighbors_of_the_stream_meet_as_often_as_by_chance() -> None:
    """Stream-adjacent windows in one batch, over an epoch of 100,000 windows: within 20% of expectation."""
    num_windows, B, L = 100_000, 500, 8
    content = {
        "name": "r", "datasets": [{"path": "d"}], "sequence_length": L, "batch_size": B, "shuffle_group": "all",
        "phases": [{"bag_size": 4, "steps": num_windows // B}],
    }  # fmt: skip
    geometry = BagGeometry(bag_size=4, sequence_length=L)
    shards = np.full(100, geometry.advance * (num_windows // 100) + 1)
    schedule = make(content, [shards])
    together = 0
    for step in range(schedule.num_steps):
        starts = np.sort(schedule.windows(step).first_token.astype(np.int64))
        together += int((np.diff(starts) == geometry.advance).sum())
    pairs_in_shards = num_windows - len(shards)
    expected = pairs_in_shards * (B - 1) / (num_windows - 1)
    assert 0.8 * expected < together < 1.2 * expected
