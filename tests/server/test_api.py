"""The HTTP contract, against a running server. python -m pytest tests/server/test_api.py"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.serving import Answer, Server, eventually, running, write_big_run
from tst_data import Plan, load_run
from tst_data.contract.wire import CONTENT_TYPE, decode
from tst_data.dataset.reader import Dataset

BATCHES = "/v1/runs/test/batches"


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Dataset) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    text = """name: {name}
datasets: [{{path: {path}}}]
sequence_length: 16
batch_size: 12
phases: [{{bag_size: 4, steps: 3}}, {{bag_size: 1, steps: 4}}]
"""
    for name in ("test", "other"):
        (folder / f"{name}.yaml").write_text(text.format(name=name, path=tiny_dataset.path))
    return folder / "test.yaml"


@pytest.fixture(scope="module")
def server(run_file: Path) -> Iterator[Server]:
    with running(run_file.parent) as server:
        yield server


@pytest.fixture(scope="module")
def plan(run_file: Path) -> Iterator[Plan]:
    with Plan(load_run(run_file)) as plan:
        yield plan


def check_problem(answer: Answer, status: int, path: str) -> dict[str, Any]:
    """The answer is a problem document as RFC 9457 wants it."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    problem: dict[str, Any] = answer.json
    assert set(problem) == {"type", "title", "status", "detail", "instance"}
    assert problem["status"] == status
    assert problem["instance"] == path.split("?")[0]
    assert isinstance(problem["detail"], str)
    assert problem["detail"]
    assert "\n" not in problem["detail"]
    return problem


def test_lists_all_runs_of_the_folder(server: Server) -> None:
    answer = server.ask("/v1/runs")
    assert answer.status == 200
    assert [run["name"] for run in answer.json["runs"]] == ["other", "test"]
    assert [run["url"] for run in server.ready["runs"]] == [
        f"{server.url}/v1/runs/other",
        f"{server.url}/v1/runs/test",
    ]


def test_describes_a_run_as_the_plan_does(server: Server, plan: Plan) -> None:
    assert server.ask("/v1/runs/test").json == plan.describe().model_dump(mode="json")


@pytest.mark.parametrize("step", range(7))
def test_a_batch_is_what_the_plan_reads(server: Server, plan: Plan, step: int) -> None:
    answer = server.ask(f"{BATCHES}/{step}")
    assert (answer.status, answer.headers["content-type"]) == (200, CONTENT_TYPE)
    assert int(answer.headers["content-length"]) == len(answer.body)
    batch, expected = decode(answer.body), plan.read_batch(step)
    assert batch.header == expected.header
    assert np.array_equal(batch.windows, expected.windows)
    assert np.array_equal(batch.first_token, expected.first_token)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_the_ranks_of_any_world_size_share_the_step_out(server: Server, world_size: int) -> None:
    whole = decode(server.ask(f"{BATCHES}/1").body)
    shares = [decode(server.ask(f"{BATCHES}/1?rank={rank}&world_size={world_size}").body) for rank in range(world_size)]
    assert np.array_equal(np.concatenate([share.windows for share in shares]), whole.windows)


def test_answers_can_be_cached_and_compared(server: Server) -> None:
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


def test_other_methods_are_refused_with_those_allowed(server: Server) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = server.ask(f"{BATCHES}/0", method=method)
        check_problem(answer, 405, f"{BATCHES}/0")
        assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v1",
        "/v1/runs/",
        "/v1/runs/unknown",
        "/v1/runs/..%2Ftest",
        "/v1/runs/unknown/batches/0",
        f"{BATCHES}/7",
        f"{BATCHES}/{10**25}",
        f"{BATCHES}/{'9' * 5000}",
        f"{BATCHES}/0/nothing",
        f"{BATCHES}/7/documents",
        f"{BATCHES}/7/preview",
        f"{BATCHES}/0/documents?sequence=12",
    ],
)
def test_what_does_not_exist_is_a_404(server: Server, path: str) -> None:
    check_problem(server.ask(path), 404, path)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        (f"{BATCHES}/-1", "-1"),
        (f"{BATCHES}/1.0", "1.0"),
        (f"{BATCHES}/one", "one"),
        (f"{BATCHES}/%20", "step"),
        (f"{BATCHES}/1_0", "1_0"),
        (f"{BATCHES}/%D9%A1", "step"),
        (f"{BATCHES}/0?rank=x", "rank"),
        (f"{BATCHES}/0?rank=", "rank"),
        (f"{BATCHES}/0?rank=-1", "rank"),
        (f"{BATCHES}/0?rank=1", "rank"),
        (f"{BATCHES}/0?rank=2&world_size=2", "rank"),
        (f"{BATCHES}/0?world_size=0", "world_size"),
        (f"{BATCHES}/0?world_size=5", "12"),
        (f"{BATCHES}/0?world_size={'9' * 18}", "12"),
        (f"{BATCHES}/0?world_size={'9' * 30}", "world_size"),
        (f"{BATCHES}/0?wrold_size=2", "wrold_size"),
        (f"{BATCHES}/0?rank=0&rank=1", "rank"),
        (f"{BATCHES}/0/documents?sequence=x", "sequence"),
        (f"{BATCHES}/0/documents?rank=0", "rank"),
        (f"{BATCHES}/0/preview?sequence=-2", "sequence"),
    ],
)
def test_what_is_malformed_is_a_422_that_names_it(server: Server, path: str, word: str) -> None:
    assert word in check_problem(server.ask(path), 422, path)["detail"]


def test_a_number_too_long_to_be_read_is_quoted_as_it_was_given(server: Server) -> None:
    number = "123456789" * 5
    for path, status, name in (
        (f"{BATCHES}/{number}", 404, "step"),
        (f"{BATCHES}/000{number}/documents", 404, "step"),
        (f"{BATCHES}/0/documents?sequence={number}", 404, "sequence"),
    ):
        detail = check_problem(server.ask(path), status, path)["detail"]
        assert detail == f"{name} 123456789123456789... (45 digits) is past the end of every run"
    path = f"{BATCHES}/0?rank={number}"
    detail = check_problem(server.ask(path), 422, path)["detail"]
    assert detail == f"query parameter 'rank': expected at most 18 digits (given: '{number}')"
    zeros = server.ask(f"{BATCHES}/{'0' * 30}1")
    assert zeros.body == server.ask(f"{BATCHES}/1").body


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
    answer = server.ask("/v1/runs/other/batches/5")
    served = [value(name) - old for name, old in zip(names, before, strict=True)]
    assert served == [1, 12 * 17, len(answer.body)]
    assert value('tst_last_step{run="other"}') == 5
    server.ask("/v1/runs/other/batches/2", method="HEAD")
    assert [value(name) - old for name, old in zip(names, before, strict=True)] == served
    assert value('tst_requests_total{route="/v1/runs/{run}",run="",status="404"}') >= 0
    assert "unknown-run-name" not in server.ask("/metrics").body.decode()


def test_openapi_describes_every_path_and_its_problems(server: Server) -> None:
    schema = server.ask("/openapi.json").json
    assert schema["openapi"].startswith("3.")
    assert set(schema["paths"]) == {
        "/v1/runs",
        "/v1/runs/{run}",
        "/v1/runs/{run}/batches/{step}",
        "/v1/runs/{run}/batches/{step}/documents",
        "/v1/runs/{run}/batches/{step}/preview",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    batch = schema["paths"]["/v1/runs/{run}/batches/{step}"]["get"]
    assert {"200", "304", "404", "422", "500", "503"} <= set(batch["responses"])
    assert {parameter["name"] for parameter in batch["parameters"]} == {"run", "step", "rank", "world_size"}
    for item in schema["paths"].values():
        for status, response in item["get"]["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"]
    text = json.dumps(schema)
    for reference in set(_references(schema)):
        assert reference.removeprefix("#/components/schemas/") in schema["components"]["schemas"]
    assert "HTTPValidationError" not in text


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
pieces = st.one_of(
    st.sampled_from(["v1", "runs", "test", "batches", "documents", "preview", "0", "3", "..", "healthz", ""]),
    anything,
    st.integers().map(str),
)
queries = st.dictionaries(
    st.one_of(st.sampled_from(["rank", "world_size", "sequence"]), anything),
    st.one_of(anything, st.integers().map(str)),
    max_size=3,
)


@settings(max_examples=200)
@given(st.lists(pieces, max_size=7), queries)
def test_no_request_breaks_the_server(server: Server, parts: list[str], query: dict[str, str]) -> None:
    path = "/" + "/".join(quote(part, safe="") for part in parts)
    asked = path + "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())
    answer = server.ask(asked)
    assert answer.status in (200, 404, 422)
    if answer.status != 200 and not path.startswith("//"):
        check_problem(answer, answer.status, path)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_server(server: Server, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    assert server.ask("/healthz").status == 200


@pytest.mark.parametrize(
    "request_line", ["FOO /v1/runs HTTP/1.1", f"GET /{'a' * 70_000} HTTP/1.1", "GET /v1/runs HTTP/one", "hello"]
)
def test_what_is_no_http_is_a_problem_too(server: Server, request_line: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request_line.encode() + b"\r\nHost: here\r\n\r\n")
        with contextlib.closing(http.client.HTTPResponse(connection)) as response:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            answer = Answer(response.status, headers, response.read())
            problem = check_problem(answer, 400, "/")
            assert problem["type"].endswith("/invalid-http")
            assert headers["connection"] == "close"
            assert int(headers["content-length"]) == len(answer.body)
            assert connection.recv(1) == b""


def test_two_servers_on_copies_give_identical_answers(
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


def test_damage_is_a_500_of_its_type_and_other_steps_go_on(
    run_file: Path, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(tiny_dataset.path, tmp_path / "copy")
    path = tmp_path / "run.yaml"
    path.write_text(run_file.read_text().replace(str(tiny_dataset.path), "copy"))
    with Plan(load_run(path)) as plan:
        shards = [
            np.searchsorted(plan.datasets[0].shard_first_token, plan.windows(step).first_token, "right") - 1
            for step in range(plan.num_steps)
        ]
    damaged = int(shards[0][0])
    whole = [step for step, used in enumerate(shards) if damaged not in used]
    file = sorted((tmp_path / "copy").glob("*.mds"))[damaged]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with running(path) as server:
        for _ in range(2):
            problem = check_problem(server.ask(f"{BATCHES}/0"), 500, f"{BATCHES}/0")
            assert problem["type"].endswith("/damaged-data")
            assert file.name in problem["detail"]
        answer = server.ask("/readyz")
        problem = check_problem(answer, 503, "/readyz")
        assert problem["type"].endswith("/not-ready")
        assert problem["title"] == "The server is not ready"
        assert file.name in problem["detail"]
        assert "retry-after" in answer.headers
        for step in whole:
            assert server.ask(f"{BATCHES}/{step}").status == 200
        file.write_bytes(content[:-100])
        problem = check_problem(server.ask(f"{BATCHES}/0"), 500, f"{BATCHES}/0")
        assert problem["type"].endswith("/damaged-data")
        assert 'tst_damaged_data_total{run="test"} 3.0' in server.ask("/metrics").body.decode()


def test_overload_is_a_503_that_says_when_to_come_back(tmp_path: Path) -> None:
    with running(write_big_run(tmp_path), environment={"TST_SERVE_MAX_REQUESTS": "1"}) as server:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as held:
            held.request("GET", f"{BATCHES}/0")
            response = held.getresponse()
            answer = server.ask(f"{BATCHES}/1")
            assert check_problem(answer, 503, f"{BATCHES}/1")["type"].endswith("/overloaded")
            assert int(answer.headers["retry-after"]) >= 1
            assert server.ask("/healthz").status == 200
            decode(response.read())
        eventually(lambda: server.ask(f"{BATCHES}/1").status == 200)
