"""No request breaks the server: random paths, queries and bytes. python -m pytest tests/server/test_any_request.py"""

from __future__ import annotations

import socket
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.serving import Server, check_problem

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
    response = server.ask(asked)
    assert response.status in (200, 404, 422)
    if response.status != 200 and not path.startswith("//"):
        check_problem(response, response.status, path)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_server(server: Server, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    assert server.ask("/healthz").status == 200
