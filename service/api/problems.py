"""Errors as RFC 9457 problem documents: one shape for every answer that is not a success.

The exception tree of `tst_data.errors` carries the status; here each class gets its `type` and title. What is not
in that tree is a defect of ours: it is logged with its stack trace and answered without any of it. Problems are
never cached, for a run that is missing today may be served tomorrow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tst_data.configuration import problem_in_words
from tst_data.errors import DamagedDataError, InvalidInputError, NotFoundError, TSTError, UnavailableError

__all__ = ["CONTENT_TYPE", "NotReadyError", "Problem", "problem_of", "problem_response"]

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:token-superposition:problems/"


class NotReadyError(UnavailableError):
    """A server that is asked whether it is ready, and is not."""


KINDS: dict[type[TSTError], tuple[str, str]] = {
    DamagedDataError: ("damaged-data", "Stored data is damaged"),
    InvalidInputError: ("invalid-request", "The request cannot be answered as it is"),
    NotFoundError: ("not-found", "There is no such thing"),
    NotReadyError: ("not-ready", "The server is not ready"),
    UnavailableError: ("overloaded", "The server is busy"),
}
RETRY_AFTER_SECONDS = 1


class Problem(BaseModel):
    """A problem document (RFC 9457, section 3)."""

    type: str = Field(description="what kind of problem: a URI that ends in its name")
    title: str = Field(description="the kind in words, the same every time")
    status: int = Field(ge=400, le=599, description="the HTTP status")
    detail: str = Field(description="what was given, what was expected, what to do")
    instance: str = Field(description="the path that was asked for")


def problem_response(
    scope: Mapping[str, Any],
    status: int,
    kind: str,
    title: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer to a request that cannot have what it asked for."""
    instance = scope.get("raw_path", b"").split(b"?")[0].decode("latin-1") or scope.get("path", "/")
    problem = Problem(type=TYPE_PREFIX + kind, title=title, status=status, detail=detail, instance=instance)
    return Response(
        json.dumps(problem.model_dump(), ensure_ascii=True),
        status_code=status,
        media_type=CONTENT_TYPE,
        headers={"cache-control": "no-store", **(headers or {})},
    )


def problem_of(scope: Mapping[str, Any], error: Exception) -> Response:
    """The problem document of any exception."""
    if isinstance(error, TSTError):
        kind, title = next(
            (named for base, named in KINDS.items() if isinstance(error, base)),
            ("internal-error", "The server failed"),
        )
        headers = {"retry-after": str(RETRY_AFTER_SECONDS)} if error.status == 503 else None
        return problem_response(scope, error.status, kind, title, str(error), headers)
    if isinstance(error, RequestValidationError):
        kind, title = KINDS[InvalidInputError]
        return problem_response(scope, 422, kind, title, _validation_detail(error))
    if isinstance(error, HTTPException) and error.status_code == 405:
        detail = f"{scope.get('method')} is not allowed here; GET and HEAD are"
        return problem_response(scope, 405, "method-not-allowed", "Method not allowed", detail, {"allow": "GET, HEAD"})
    if isinstance(error, HTTPException) and error.status_code == 404:
        detail = "there is nothing at this path; /v1/runs lists the runs, /openapi.json the paths"
        return problem_response(scope, 404, "not-found", KINDS[NotFoundError][1], detail)
    if isinstance(error, HTTPException):
        return problem_response(scope, error.status_code, "http-error", "Request refused", str(error.detail))
    detail = "an unexpected error, logged by the server; asking again may help"
    return problem_response(scope, 500, "internal-error", "The server failed", detail)


def _validation_detail(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where, *names = first["loc"]
    name = ".".join(str(part) for part in names) or str(where)
    if first["type"] == "extra_forbidden":
        return f"unknown {where} parameter {name!r}; remove it or correct its spelling"
    return f"{where} parameter {name!r}: {problem_in_words(first)}"
