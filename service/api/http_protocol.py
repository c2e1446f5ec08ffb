"""Requests that uvicorn's HTTP parser refuses never reach the application: here they become problem documents too.

A method that HTTP does not know, a URL of more than 64 kB, bytes that are not HTTP at all: uvicorn would respond in
plain text. The connection is closed after the response, because nobody can know where the next request would begin.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.problems import problem_response

__all__ = ["ProblemProtocol"]

TITLE = "The request is not HTTP"
DETAIL = "request: cannot be read as HTTP/1.1; send GET or HEAD with a URL of at most 64 kB"


class ProblemProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a problem document (RFC 9457) for a request that cannot be parsed."""

    def send_400_response(self, msg: str) -> None:
        response = problem_response({}, 400, "invalid-http", TITLE, DETAIL, {"connection": "close"})
        headers = [*self.server_state.default_headers, *response.raw_headers]
        lines = [b"HTTP/1.1 400 Bad Request", *(b"%s: %s" % header for header in headers), b"", bytes(response.body)]
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()
