"""A position in a run that is changed later: every source resumes where the batches before it are the same.

python -m pytest tests/contracts/test_changed_runs.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.conftest import NUM_STEPS
from tests.support.fault_server import FaultServer, bare
from tests.support.streams import one_line, rest_is_the_plans
from trainer_client import BatchStream
from tst_data import Plan
from tst_data.errors import DamagedDataError, ForeignDataError, InvalidInputError
from tst_data.materialized.reader import open_materialized
from tst_data.materialized.writer import materialize
from tst_data.run.run_file import parse_run

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def saved_at(source: Any, step: int) -> tuple[dict[str, Any], str]:
    """The state of a stream after so many steps, as a checkpoint on disk keeps it, and its digest."""
    with BatchStream(source) as stream:
        for _ in range(step):
            next(stream)
        return json.loads(json.dumps(stream.state_dict())), stream.digest


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 3, 9, NUM_STEPS])
def test_a_state_resumes_on_the_extended_run(changed: dict[str, Any], plans: dict[str, Plan], step: int) -> None:
    state, digest = saved_at(changed["contract"], step)
    with BatchStream(changed["extended"]) as stream:
        list(stream)
        undisturbed = stream.digest
    with BatchStream(changed["extended"]) as stream:
        stream.load_state_dict(state, digest=digest)
        assert len(stream) == NUM_STEPS + 5 - step
        assert rest_is_the_plans(stream, plans["extended"])
        assert stream.digest == undisturbed


@pytest.mark.parametrize(("step", "loads"), [(0, True), (3, True), (4, True), (5, False), (8, False)])
def test_a_state_resumes_on_a_run_that_was_changed_after_its_step_and_on_no_other(
    changed: dict[str, Any], plans: dict[str, Plan], step: int, loads: bool
) -> None:
    """A phase ends at step 4 instead of 5: what was saved up to there continues."""
    with BatchStream(changed["contract"], start_step=step) as stream:
        state = stream.state_dict()
    with BatchStream(changed["earlier"]) as stream:
        if loads:
            stream.load_state_dict(state)
            assert rest_is_the_plans(stream, plans["earlier"])
            return
        with pytest.raises(ForeignDataError) as caught:
            stream.load_state_dict(state)
        expected = (run.describe() for run in (plans["contract"], plans["earlier"]))
        one_line(caught.value, *(mark for run in expected for mark in (run.fingerprint, run.prefix_fingerprint(step))))
        assert stream.next_step == 0


@pytest.mark.parametrize("step", [0, 2])
def test_a_state_of_another_seed_resumes_nowhere(changed: dict[str, Any], step: int) -> None:
    with BatchStream(changed["contract"], start_step=step) as stream:
        state = stream.state_dict()
    with BatchStream(changed["reseeded"]) as stream, pytest.raises(ForeignDataError):
        stream.load_state_dict(state)


def test_a_state_past_the_end_of_a_shorter_run_is_refused(changed: dict[str, Any]) -> None:
    with BatchStream(changed["shorter"]) as stream:
        for step in range(6):
            with BatchStream(changed["contract"], start_step=step) as longer:
                stream.load_state_dict(longer.state_dict())
        with BatchStream(changed["contract"], start_step=6) as longer, pytest.raises(InvalidInputError) as caught:
            stream.load_state_dict(longer.state_dict())
    one_line(caught.value, "state: is at step 6, past the end of run 'shorter'", "has 5 steps", "at least 6 steps")


def test_a_stream_ends_where_its_server_begins_to_serve_the_run_extended(
    run_files: dict[str, Path], plan: Plan
) -> None:
    text = run_files["extended"].read_text().replace("name: extended", "name: contract")
    with (
        FaultServer(plan) as server,
        BatchStream(server.url, prefetch=0) as stream,
        Plan(parse_run(text, Path())) as extended,
    ):
        next(stream)
        server.plan = extended
        with pytest.raises(ForeignDataError) as caught:
            next(stream)
        one_line(caught.value, plan.fingerprint, extended.fingerprint, "make a new BatchStream")
        with BatchStream(server.url) as again:
            again.load_state_dict(stream.state_dict())
            assert again.next_step == 1


def test_every_source_describes_what_a_prefix_is_made_of(changed: dict[str, Any], plans: dict[str, Plan]) -> None:
    for name, plan in plans.items():
        with BatchStream(changed[name]) as stream:
            description = stream.description
        assert description.dataset_fingerprints == tuple(dataset.fingerprint for dataset in plan.datasets)
        for step in range(plan.num_steps + 1):
            expected = plan.specification.prefix_fingerprint(description.dataset_fingerprints, step)
            assert description.prefix_fingerprint(step) == expected
        assert description.prefix_fingerprint(plan.num_steps) == description.fingerprint == plan.fingerprint


def of_order_version_1(description: dict[str, Any]) -> dict[str, Any]:
    """A description as the version before gave it: without what prefix fingerprints need."""
    phases = [{key: value for key, value in phase.items() if key != "weights"} for phase in description["phases"]]
    old = {**description, "order_version": 1, "phases": phases}
    del old["dataset_fingerprints"]
    return old


def test_a_materialized_run_of_order_version_1_is_refused_by_name(plan: Plan, tmp_path: Path) -> None:
    materialize(plan, tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    content = json.loads((tmp_path / "old" / "run.json").read_text())
    content["description"] = of_order_version_1(content["description"])
    (tmp_path / "old" / "run.json").write_text(json.dumps(content))
    with pytest.raises(ForeignDataError) as caught:
        BatchStream(tmp_path / "old")
    one_line(
        caught.value, "run.json: was drawn in order version 1, but", "order version 2; read it", "materialize the run"
    )
    with pytest.raises(ForeignDataError) as caught:
        materialize(plan, tmp_path / "old")
    one_line(caught.value, "old: holds a run that was drawn in order version 1, but", "choose another --out")


def test_a_server_of_order_version_1_is_refused_by_name_and_asked_once(plan: Plan) -> None:
    old = of_order_version_1(plan.describe().model_dump(mode="json"))
    with FaultServer(plan) as server:
        server.description_faults.append(bare(200, json.dumps(old).encode(), **{"Content-Type": "application/json"}))
        with pytest.raises(ForeignDataError) as caught:
            BatchStream(server.url, timeout_seconds=10)
        one_line(
            caught.value, server.url, "the run was drawn in order version 1, but", "the same version here and on the"
        )
        assert len(server.requests) == 1


@pytest.mark.parametrize("change", [{"fingerprint": "0" * 64}, {"dataset_fingerprints": ["0" * 64]}, {"phases": []}])
def test_a_run_json_that_contradicts_itself_is_refused(plan: Plan, tmp_path: Path, change: dict[str, Any]) -> None:
    materialize(plan, tmp_path / "out")
    path = tmp_path / "out" / "run.json"
    content = json.loads(path.read_text())
    content["description"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedDataError, match=r"run\.json: the description of run 'contract' contradicts itself"):
        open_materialized(tmp_path / "out")
