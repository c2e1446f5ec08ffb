"""What uvicorn's HTTP parser refuses never reaches the application: here it becomes a problem document too.

A method that HTTP does not know, a URL of more than 64 kB, bytes that are no HTTP at all: uvicorn answers these in
plain text. The connection is closed after it, for nobody knows where the next request would begin.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.problems import problem_response

__all__ = ["ProblemProtocol"]

DETAIL = "this cannot be read as an HTTP/1.1 request; expected GET or HEAD, and a URL of at most 64 kB"


class ProblemProtocol(HttpToolsProtocol):
    """uvicorn's protocol with RFC 9457 in its mouth."""

    def send_400_response(self, msg: str) -> None:
        answer = problem_response({}, 400, "invalid-http", "The request is no HTTP", DETAIL, {"connection": "close"})
        headers = [*self.server_state.default_headers, *answer.raw_headers]
        lines = [b"HTTP/1.1 400 Bad Request", *(b"%s: %s" % header for header in headers), b"", bytes(answer.body)]
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()
