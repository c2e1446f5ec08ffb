"""Every response that is not a success is a problem document with a status, a type and words that help.

python -m pytest tests/server/test_problems.py
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.api.problems import problem_of
from tests.conftest import MakeRun
from tests.server.conftest import BATCHES
from tests.support.serving import Server, check_problem, eventually, read_response, running, write_big_run
from tst_data import Plan, load_run
from tst_data.contract.wire import decode
from tst_data.dataset.reader import Dataset
from tst_data.errors import DamagedDataError, InvalidInputError, NotFoundError, TSTError


@pytest.mark.slow
def test_other_methods_are_refused_with_those_allowed(server: Server) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        response = server.ask(f"{BATCHES}/0", method=method)
        problem = check_problem(response, 405, f"{BATCHES}/0")
        assert problem["detail"] == f"method {method}: is not allowed; use GET or HEAD"
        assert response.headers["allow"] == "GET, HEAD"


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
    ("path", "detail"),
    [
        ("/-1", "path parameter 'step': expected at least 0 (given: -1)"),
        ("/-01", "path parameter 'step': expected at least 0 (given: -1)"),
        ("/-0", "path parameter 'step': expected a whole number (given: '-0')"),
        ("/1.0", "path parameter 'step': expected a whole number (given: '1.0')"),
        ("/1.5", "path parameter 'step': expected a whole number (given: '1.5')"),
        ("/one", "path parameter 'step': expected a whole number (given: 'one')"),
        ("/%20", "path parameter 'step': expected a whole number (given: ' ')"),
        ("/1_0", "path parameter 'step': expected a whole number (given: '1_0')"),
        ("/+1", "path parameter 'step': expected a whole number (given: '+1')"),
        ("/1%0A", "path parameter 'step': expected a whole number (given: '1\\n')"),
        ("/%D9%A1", "path parameter 'step': expected a whole number (given: '\N{ARABIC-INDIC DIGIT ONE}')"),
        ("/0?rank=x", "query parameter 'rank': expected a whole number (given: 'x')"),
        ("/0?rank=", "query parameter 'rank': expected a whole number (given: '')"),
        ("/0?rank", "query parameter 'rank': expected a whole number (given: '')"),
        ("/0?rank=-1", "query parameter 'rank': expected at least 0 (given: -1)"),
        ("/0?rank=1", "rank: expected 0 to 0 for world_size 1 (given: 1)"),
        ("/0?rank=2&world_size=2", "rank: expected 0 to 1 for world_size 2 (given: 2)"),
        ("/0?world_size=0", "query parameter 'world_size': expected at least 1 (given: 0)"),
        ("/0?world_size=-0", "query parameter 'world_size': expected a whole number (given: '-0')"),
        ("/0?world_size=", "query parameter 'world_size': expected a whole number (given: '')"),
        ("/0?world_size=5", "world_size: 5 does not divide the batch size 12; choose a divisor of 12"),
        (
            f"/0?world_size={'9' * 18}",
            f"world_size: {'9' * 18} does not divide the batch size 12; choose a divisor of 12",
        ),
        (
            f"/0?world_size={'9' * 30}",
            f"query parameter 'world_size': expected at most 18 digits (given: '{'9' * 30}')",
        ),
        (f"/-{'9' * 19}", f"path parameter 'step': expected at most 18 digits (given: '-{'9' * 19}')"),
        ("/0?wrold_size=2", "unknown query parameter 'wrold_size'; remove it or correct its spelling"),
        ("/0?rank=-1&wrold_size=2", "unknown query parameter 'wrold_size'; remove it or correct its spelling"),
        ("/0?rank=0&rank=1", "query parameter 'rank': is given 2 times; give it once"),
        ("/0?a=0&a=1&a=1", "query parameter 'a': is given 3 times; give it once"),
        ("/0/documents?sequence=x", "query parameter 'sequence': expected a whole number (given: 'x')"),
        ("/0/documents?sequence=", "query parameter 'sequence': expected a whole number (given: '')"),
        ("/0/documents?rank=0", "unknown query parameter 'rank'; remove it or correct its spelling"),
        ("/0/preview?sequence=-2", "query parameter 'sequence': expected at least 0 (given: -2)"),
        ("/0/preview?sequence=1&sequence=1", "query parameter 'sequence': is given 2 times; give it once"),
    ],
)
def test_what_is_malformed_is_a_422_that_names_it(server: Server, path: str, detail: str) -> None:
    path = BATCHES + path
    problem = check_problem(server.ask(path), 422, path)
    assert problem["detail"] == detail
    assert problem["type"].endswith("/invalid-request")


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("%1b%5b31m%c2%9b%e2%80%ae%0a=1", r"\x1b[31m\u009b\u202e\n"),
        ("rank=%1b%5b31m%c2%9b%e2%80%ae%0a", r"\x1b[31m\x9b\u202e\n"),
        ("rank=0&rank=1&%1b=1", "query parameter 'rank'"),
        (f"{'n' * 30_000}=1", "nnn... ("),
        (f"rank={'n' * 30_000}", "nnn... ("),
        (f"{'n' * 10_000}=1&{'n' * 10_000}=1", "nnn"),
    ],
)
def test_what_a_client_wrote_is_shown_escaped_and_shortened(server: Server, query: str, shown: str) -> None:
    detail = check_problem(server.ask(f"{BATCHES}/0?{query}"), 422, f"{BATCHES}/0")["detail"]
    assert detail.isprintable()
    assert len(detail) <= 2000
    assert shown.replace("\\u009b", "\\x9b") in detail
    names = check_problem(server.ask(f"/v1/runs/%1b%0a{'n' * 30_000}"), 404, f"/v1/runs/%1b%0a{'n' * 30_000}")
    assert names["detail"].isprintable()
    assert len(names["detail"]) < 200


@pytest.mark.parametrize(
    ("path", "changes", "words"),
    [
        ("/0?rank=-1", {"seed": -1}, "expected at least 0 (given: -1)"),
        ("/-1", {"seed": -1}, "expected at least 0 (given: -1)"),
        ("/0?world_size=0", {"batch_size": 0}, "expected at least 1 (given: 0)"),
        ("/0?rank=x", {"batch_size": "x"}, "expected a whole number (given: 'x')"),
        ("/0?rank=", {"batch_size": ""}, "expected a whole number (given: '')"),
        ("/1.5", {"batch_size": "1.5"}, "expected a whole number (given: '1.5')"),
        ("/0?batchsize=1", {"batchsize": 1}, "'batchsize'; remove it or correct its spelling"),
    ],
)
def test_a_mistake_has_the_same_words_in_a_request_and_in_a_run_file(
    server: Server, make_run: MakeRun, tiny_dataset: Dataset, path: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_run(make_run(tiny_dataset, **changes))
    detail = check_problem(server.ask(BATCHES + path), 422, BATCHES + path)["detail"]
    assert str(caught.value).endswith(words)
    assert detail.endswith(words)


def test_a_number_too_long_to_be_read_is_quoted_as_it_was_given(server: Server) -> None:
    number = "123456789" * 5
    for path, detail in (
        (f"{BATCHES}/{number}", "path parameter 'step': {} is past the end of every run; give a smaller number"),
        (
            f"{BATCHES}/000{number}/documents",
            "path parameter 'step': {} is past the end of every run; give a smaller number",
        ),
        (
            f"{BATCHES}/0/documents?sequence={number}",
            "query parameter 'sequence': {} is past the end of every batch; give a smaller number",
        ),
    ):
        problem = check_problem(server.ask(path), 404, path)
        assert problem["detail"] == detail.format("123456789123456789... (45 digits)")
    path = f"{BATCHES}/0?rank={number}"
    detail = check_problem(server.ask(path), 422, path)["detail"]
    assert detail == f"query parameter 'rank': expected at most 18 digits (given: '{number}')"
    zeros = server.ask(f"{BATCHES}/{'0' * 30}1")
    assert zeros.body == server.ask(f"{BATCHES}/1").body


@pytest.mark.parametrize(
    "request_line", ["FOO /v1/runs HTTP/1.1", f"GET /{'a' * 70_000} HTTP/1.1", "GET /v1/runs HTTP/one", "hello"]
)
def test_what_is_not_http_is_a_problem_too(server: Server, request_line: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request_line.encode() + b"\r\nHost: here\r\n\r\n")
        with contextlib.closing(http.client.HTTPResponse(connection)) as received:
            received.begin()
            response = read_response(received)
            problem = check_problem(response, 400, "/")
            assert problem["type"].endswith("/invalid-http")
            assert response.headers["connection"] == "close"
            assert int(response.headers["content-length"]) == len(response.body)
            assert connection.recv(1) == b""


@pytest.mark.slow
def test_damage_is_a_500_of_its_type_and_other_steps_are_served(
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
        response = server.ask("/readyz")
        problem = check_problem(response, 503, "/readyz")
        assert problem["type"].endswith("/not-ready")
        assert problem["title"] == "The server is not ready"
        assert file.name in problem["detail"]
        assert "retry-after" in response.headers
        for step in whole:
            assert server.ask(f"{BATCHES}/{step}").status == 200
        file.write_bytes(content[:-100])
        problem = check_problem(server.ask(f"{BATCHES}/0"), 500, f"{BATCHES}/0")
        assert problem["type"].endswith("/damaged-data")
        assert 'tst_damaged_data_total{run="test"} 3.0' in server.ask("/metrics").body.decode()


@pytest.mark.slow
def test_overload_is_a_503_that_says_when_to_come_back(tmp_path: Path) -> None:
    with running(write_big_run(tmp_path), environment={"TST_SERVE_MAX_REQUESTS": "1"}) as server:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as held:
            held.request("GET", f"{BATCHES}/0")
            begun = held.getresponse()
            response = server.ask(f"{BATCHES}/1")
            assert check_problem(response, 503, f"{BATCHES}/1")["type"].endswith("/overloaded")
            assert int(response.headers["retry-after"]) >= 1
            assert server.ask("/healthz").status == 200
            decode(begun.read())
        eventually(lambda: server.ask(f"{BATCHES}/1").status == 200)


def test_unexpected_errors_reveal_nothing() -> None:
    scope = {"path": "/x", "raw_path": b"/x", "method": "GET"}
    body = bytes(problem_of(scope, RuntimeError("secret path /root/data")).body)
    assert b"secret" not in body
    assert b'"status": 500' in body
    for error, status in ((DamagedDataError("piece 3"), 500), (TSTError("odd"), 500), (NotFoundError("step"), 404)):
        response = problem_of(scope, error)
        assert response.status_code == status
        assert str(error).encode() in bytes(response.body)
