"""Errors as problem documents (RFC 9457): one shape for every response that is not a success.

The exception tree of `tst_data.errors` carries the status; here each class gets its `type` and `title`. An exception
outside that tree is a defect of ours: its stack trace goes to the log, and nothing of it into the response. Problems
are never cached, because a run that is missing today may be served tomorrow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tst_data.configuration import problem_in_words
from tst_data.errors import DamagedDataError, InvalidInputError, NotFoundError, TSTError, UnavailableError
from tst_data.visible_text import one_line

__all__ = [
    "CONTENT_TYPE",
    "RETRY_AFTER_SECONDS",
    "NotReadyError",
    "OverloadedError",
    "Problem",
    "problem_of",
    "problem_response",
]

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:token-superposition:problems/"
RETRY_AFTER_SECONDS = 1


class NotReadyError(UnavailableError):
    """The server was asked whether it is ready, and it is not."""


class OverloadedError(UnavailableError):
    """The server has no place for another request."""


KINDS: dict[type[TSTError], tuple[str, str]] = {
    DamagedDataError: ("damaged-data", "Stored data is damaged"),
    InvalidInputError: ("invalid-request", "The request is not valid"),
    NotFoundError: ("not-found", "Not found"),
    NotReadyError: ("not-ready", "The server is not ready"),
    OverloadedError: ("overloaded", "The server is busy"),
    UnavailableError: ("unavailable", "The data cannot be read now"),
}
"""Last part of the `type`, and `title`. A subclass comes before its base."""

FAILURE = ("internal-error", "The server failed")


class Problem(BaseModel):
    """A problem document (RFC 9457, section 3)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    """Kind of problem: a URI whose last part is its name."""
    title: str
    """The kind in words. It is the same for every problem of this type."""
    status: Annotated[int, Field(ge=400, le=599)]
    """HTTP status of the response."""
    detail: str
    """What was given, what was expected, and what to do, in one line."""
    instance: str
    """Path of the request."""


def problem_response(
    scope: Mapping[str, Any],
    status: int,
    kind: str,
    title: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The response with a problem document. `kind` is the last part of its `type`."""
    instance = scope.get("raw_path", b"").split(b"?")[0].decode("latin-1") or scope.get("path", "/")
    problem = Problem(type=TYPE_PREFIX + kind, title=title, status=status, detail=one_line(detail), instance=instance)
    return Response(
        json.dumps(problem.model_dump(), ensure_ascii=True),
        status_code=status,
        media_type=CONTENT_TYPE,
        headers={"cache-control": "no-store", **(headers or {})},
    )


def problem_of(scope: Mapping[str, Any], error: Exception) -> Response:
    """The response to a request that ended in this exception."""
    if isinstance(error, TSTError):
        kind, title = next((named for base, named in KINDS.items() if isinstance(error, base)), FAILURE)
        headers = {"retry-after": str(RETRY_AFTER_SECONDS)} if error.status == 503 else None
        return problem_response(scope, error.status, kind, title, str(error), headers)
    if isinstance(error, RequestValidationError):
        return problem_response(scope, 422, *KINDS[InvalidInputError], _validation_detail(error))
    if isinstance(error, HTTPException) and error.status_code == 405:
        detail = f"method {scope.get('method')}: is not allowed; use GET or HEAD"
        return problem_response(scope, 405, "method-not-allowed", "Method not allowed", detail, {"allow": "GET, HEAD"})
    if isinstance(error, HTTPException) and error.status_code == 404:
        detail = "path: does not exist; /v1/runs lists the runs, /openapi.json the paths"
        return problem_response(scope, 404, *KINDS[NotFoundError], detail)
    if isinstance(error, HTTPException):
        return problem_response(scope, error.status_code, "http-error", "Request refused", str(error.detail))
    detail = "server: unexpected error, written to its log; ask again, and report it if it happens again"
    return problem_response(scope, 500, *FAILURE, detail)


def _validation_detail(error: RequestValidationError) -> str:
    """One problem of the parameters in the words of a run file's: an unknown parameter before all others."""
    problems = error.errors()
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    where, *names = first["loc"]
    name = ".".join(str(part) for part in names) or str(where)
    if first["type"] == "extra_forbidden":
        return f"unknown {where} parameter {name!r}; remove it or correct its spelling"
    return f"{where} parameter {name!r}: {problem_in_words(first)}"
