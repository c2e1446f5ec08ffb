"""The demo's audit and held-out windows. python -m pytest tests/demo/test_audit.py"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.demo.audit import audit_run, compare_losses, repeated_tokens, step_counts
from benchmarks.demo.held_out import held_out_windows
from benchmarks.demo.metrics_tail import MetricsTail
from tst_data.dataset.writer import write_dataset
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run


def step_records(*steps: int) -> list[dict[str, Any]]:
    return [{"event": "step", "step": step} for step in steps]


def test_every_step_once_is_neither_lost_nor_repeated() -> None:
    records = [*step_records(0, 1, 2, 3), {"event": "evaluation", "step": 2}]
    assert step_counts(records, 4) == (0, 0)


def test_missing_and_doubled_steps_are_counted() -> None:
    assert step_counts(step_records(0, 2, 2, 3), 5) == (2, 1)
    assert step_counts(step_records(0, 1, 7), 2) == (0, 1)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), min_size=1, max_size=12))
def test_repeated_tokens_are_what_counting_each_token_gives(ranges: list[tuple[int, int]]) -> None:
    ranges.sort()
    seen: set[int] = set()
    expected = 0
    for first, length in ranges:
        tokens = set(range(first, first + length))
        expected += len(tokens & seen) if all(token in seen or token > max(seen, default=-1) for token in tokens) else 0
        seen |= tokens
    first_tokens = np.array([first for first, _ in ranges], dtype=np.uint64)
    found = repeated_tokens(first_tokens, np.array([length for _, length in ranges], dtype=np.int64))
    assert (found == 0) == (sum(length for _, length in ranges) == len(seen))
    assert found >= expected


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    tokens = np.random.default_rng(5).integers(0, 50, 6000)
    with write_dataset(tmp_path / "data", [tokens], vocabulary_size=64, end_of_text_id=63):
        pass
    run = {
        "name": "tst",
        "datasets": [{"path": "data"}],
        "sequence_length": 8,
        "batch_size": 4,
        "phases": [{"bag_size": 4, "steps": 6}, {"bag_size": 1, "steps": 10}],
    }
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    with Plan(load_run(tmp_path / "run.yaml")) as opened:
        yield opened


def given_digest(plan: Plan, tmp_path: Path) -> str:
    """What a BatchStream says after it has delivered the whole run."""
    from trainer_client import BatchStream

    with BatchStream(tmp_path / "run.yaml", prefetch=0) as stream:
        for _ in stream:
            pass
        return stream.digest


def test_a_run_delivered_as_planned_passes(plan: Plan, tmp_path: Path) -> None:
    done: list[int] = []
    audit = audit_run(plan, step_records(*range(16)), given_digest(plan, tmp_path), done.append)
    assert audit.passed
    assert (audit.windows, audit.tokens, audit.tokens_repeated) == (64, 6 * 4 * 32 + 10 * 4 * 8, 0)
    assert done == list(range(1, 17))


@pytest.mark.parametrize("records", [step_records(*range(15)), step_records(*range(16), 3)])
def test_a_run_with_a_step_lost_or_repeated_fails(plan: Plan, tmp_path: Path, records: list[dict[str, Any]]) -> None:
    assert not audit_run(plan, records, given_digest(plan, tmp_path), lambda step: None).passed


def test_a_run_with_other_batches_fails(plan: Plan) -> None:
    audit = audit_run(plan, step_records(*range(16)), "f" * 32, lambda step: None)
    assert (audit.lost, audit.repeated) == (0, 0)
    assert not audit.passed


def test_a_run_that_reads_tokens_twice_fails(plan: Plan, tmp_path: Path) -> None:
    audit = audit_run(plan, step_records(*range(16)), given_digest(plan, tmp_path), lambda step: None)
    assert not dataclasses.replace(audit, tokens_repeated=1).passed


def test_losses_are_identical_only_as_the_same_floats() -> None:
    recorded = {3: 1.5, 4: 1.25, 5: 2.0}
    assert compare_losses(recorded, {4: 1.25, 5: 2.0}).identical
    nearly = compare_losses(recorded, {4: 1.25, 5: 2.0000001})
    assert not nearly.identical
    assert (nearly.num_equal, nearly.num_steps) == (1, 2)
    assert nearly.largest_difference == pytest.approx(1e-7)
    assert not compare_losses(recorded, {6: 1.0}).identical
    assert not compare_losses(recorded, {}).identical


def test_metrics_are_followed_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.read() == []
    lines = [json.dumps(record) + "\n" for record in step_records(0, 1, 2)]
    path.write_text("".join(lines) + '{"event": "st')
    assert [record["step"] for record in tail.read()] == [0, 1, 2]
    assert tail.next_step == 3
    fresh = tmp_path / "fresh"
    fresh.write_text("".join(lines[:2]) + '{"event": "resume", "step": 2}\n')
    fresh.replace(path)
    assert len(tail.read()) == 3
    assert tail.next_step == 2
    assert tail.latest("resume") == {"event": "resume", "step": 2}
    with path.open("a") as file:
        file.write(lines[2])
    assert tail.read() == step_records(2)


def test_windows_are_spread_over_the_whole_held_out_text(tmp_path: Path) -> None:
    documents = [np.full(39, number) for number in range(30)]
    with write_dataset(tmp_path / "data", documents, vocabulary_size=64, end_of_text_id=63) as dataset:
        sources = [document.source for document in dataset.documents(0, dataset.num_tokens)]
        tokens = dataset.read(0, dataset.num_tokens)
    package_of = dict.fromkeys(sources, "all")
    windows, packages = held_out_windows(tmp_path / "data", 10, 20, package_of)
    assert windows.shape == (10, 21)
    assert packages.tolist() == [0] * 10
    starts = [number * 59 // 10 * 20 for number in range(10)]
    assert windows.tolist() == [tokens[start : start + 21].tolist() for start in starts]
    everything, _ = held_out_windows(tmp_path / "data", 1000, 20, package_of)
    assert len(everything) == 59
