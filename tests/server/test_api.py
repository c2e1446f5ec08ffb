"""What the paths of the API return, from a running server. python -m pytest tests/server/test_api.py"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.server.conftest import BATCHES
from tests.support.serving import Server, running
from tst_data import Plan
from tst_data.contract.wire import CONTENT_TYPE, decode
from tst_data.dataset.reader import Dataset


@pytest.mark.slow
def test_lists_all_runs_of_the_folder(server: Server) -> None:
    response = server.ask("/v1/runs")
    assert response.status == 200
    assert [run["name"] for run in response.json["runs"]] == ["other", "test"]
    assert [run["url"] for run in server.ready["runs"]] == [
        f"{server.url}/v1/runs/other",
        f"{server.url}/v1/runs/test",
    ]


def test_describes_a_run_as_the_plan_does(server: Server, plan: Plan) -> None:
    assert server.ask("/v1/runs/test").json == plan.describe().model_dump(mode="json")


@pytest.mark.parametrize("step", range(7))
def test_a_batch_is_what_the_plan_reads(server: Server, plan: Plan, step: int) -> None:
    response = server.ask(f"{BATCHES}/{step}")
    assert (response.status, response.headers["content-type"]) == (200, CONTENT_TYPE)
    assert int(response.headers["content-length"]) == len(response.body)
    batch, expected = decode(response.body), plan.read_batch(step)
    assert batch.header == expected.header
    assert np.array_equal(batch.windows, expected.windows)
    assert np.array_equal(batch.first_token, expected.first_token)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_the_ranks_of_any_world_size_share_the_step_out(server: Server, world_size: int) -> None:
    whole = decode(server.ask(f"{BATCHES}/1").body)
    shares = [decode(server.ask(f"{BATCHES}/1?rank={rank}&world_size={world_size}").body) for rank in range(world_size)]
    assert np.array_equal(np.concatenate([share.windows for share in shares]), whole.windows)


def test_responses_can_be_cached_and_compared(server: Server) -> None:
    first, again, other = (server.ask(f"{BATCHES}/{step}") for step in (2, 2, 3))
    etag = first.headers["etag"]
    assert first.body == again.body
    assert etag == again.headers["etag"] != other.headers["etag"]
    assert etag.startswith('"')
    assert "immutable" in first.headers["cache-control"]
    for named in (etag, f'"unknown", {etag}', f"W/{etag}", "*"):
        unchanged = server.ask(f"{BATCHES}/2", headers={"If-None-Match": named})
        assert (unchanged.status, unchanged.body) == (304, b"")
        assert unchanged.headers["etag"] == etag
    assert server.ask(f"{BATCHES}/2", headers={"If-None-Match": '"unknown"'}).status == 200


@pytest.mark.parametrize("path", ["/", "/v1/runs", "/healthz", f"{BATCHES}/0", f"{BATCHES}/99", "/nothing"])
def test_head_is_get_without_the_body(server: Server, path: str) -> None:
    head, get = server.ask(path, method="HEAD"), server.ask(path)
    assert (head.status, head.body) == (get.status, b"")
    for name in ("content-length", "content-type", "etag"):
        assert head.headers.get(name) == get.headers.get(name)


def test_documents_name_the_bags_that_read_from_them(server: Server, plan: Plan) -> None:
    for step, sequence in ((0, 0), (2, 11), (3, 5)):
        geometry = plan.phase(step).geometry
        first_token = int(plan.windows(step).first_token[sequence])
        documents = server.ask(f"{BATCHES}/{step}/documents?sequence={sequence}").json["documents"]
        by_token = [
            {at for at, document in enumerate(documents) if document["first_token"] <= token < _end(document)}
            for token in range(first_token, first_token + geometry.advance)
        ]
        assert all(len(found) == 1 for found in by_token)
        for at, document in enumerate(documents):
            assert set(document) == {"id", "source", "row", "first_token", "length", "bags"}
            slots = geometry.input_slots
            assert document["bags"] == sorted(
                {token // slots for token in range(geometry.advance) if at in by_token[token]}
            )


def _end(document: dict[str, int]) -> int:
    return document["first_token"] + document["length"]


def test_sequence_0_is_the_default(server: Server) -> None:
    assert server.ask(f"{BATCHES}/0/documents").body == server.ask(f"{BATCHES}/0/documents?sequence=0").body


def test_health_and_readiness(server: Server) -> None:
    assert server.ask("/healthz").json == {"status": "alive"}
    assert server.ask("/readyz").json == {"status": "ready"}


def test_metrics_count_what_was_served(server: Server) -> None:
    def value(name: str) -> float:
        for line in server.ask("/metrics").body.decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0

    names = [f'tst_{what}_served_total{{run="other"}}' for what in ("batches", "tokens", "bytes")]
    before = [value(name) for name in names]
    response = server.ask("/v1/runs/other/batches/5")
    served = [value(name) - old for name, old in zip(names, before, strict=True)]
    assert served == [1, 12 * 17, len(response.body)]
    assert value('tst_last_step{run="other"}') == 5
    server.ask("/v1/runs/other/batches/2", method="HEAD")
    assert [value(name) - old for name, old in zip(names, before, strict=True)] == served
    unknown = 'tst_requests_total{route="/v1/runs/{run}",run="",status="404"}'
    not_found = value(unknown)
    server.ask("/v1/runs/unknown-run-name")
    assert value(unknown) == not_found + 1
    assert "unknown-run-name" not in server.ask("/metrics").body.decode()


@pytest.mark.slow
def test_two_servers_on_copies_give_identical_responses(
    server: Server, run_file: Path, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(tiny_dataset.path, tmp_path / "elsewhere")
    text = run_file.read_text().replace(str(tiny_dataset.path), "elsewhere")
    (tmp_path / "run.json").write_text(json.dumps(yaml.safe_load(text)))
    with running(tmp_path / "run.json") as replica:
        assert replica.ready["runs"][0]["fingerprint"] == server.ready["runs"][1]["fingerprint"]
        for path in (f"{BATCHES}/6", f"{BATCHES}/0?rank=2&world_size=3", f"{BATCHES}/3/documents?sequence=4"):
            here, there = server.ask(path), replica.ask(path)
            assert here.body == there.body
            assert here.headers.get("etag") == there.headers.get("etag")
