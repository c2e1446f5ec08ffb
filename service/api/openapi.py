"""The OpenAPI document: what FastAPI derives from the routes, plus the problem documents that all of them share."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service.api.problems import CONTENT_TYPE, RETRY_AFTER_SECONDS, Problem
from tst_data.contract import wire

__all__ = ["DESCRIPTION", "SUMMARY", "TAGS", "TITLE", "complete"]

TITLE = "Token-Superposition batch server"
SUMMARY = "Serves the batches of training runs over HTTP."
DESCRIPTION = """\
A batch is a pure function of run, step, rank and world size. Every path takes GET and HEAD, and no request changes
anything on the server. Every response that is not a success, except 304, is a problem document (RFC 9457), whose `type`
says what kind of problem it is and whose `detail` says what was given, what was expected and what to do.

Numbers are whole and written in decimal digits. The batch paths refuse a query parameter that they do not know or that
is given twice.

The server also has a page for people at `/`, and this document at `/openapi.json`.
"""
TAGS = [
    {"name": "runs", "description": "Which runs there are, and what they are."},
    {"name": "batches", "description": "The batches of a run, and a look into them."},
    {"name": "operations", "description": "Probes and metrics for those who operate the server."},
]

BATCH_PATH = "/v1/runs/{run}/batches/{step}"
READY_PATH = "/readyz"
ANY_PATH = {
    "405": "The method is neither GET nor HEAD.",
    "500": "Unexpected error. It is written to the server's log.",
}
RUN_PATH = {"404": "There is no such run."}
STEP_PATH = {
    "404": "There is no such run, step or sequence.",
    "422": "A parameter is unknown, repeated, cannot be read, or does not fit the run.",
    "500": "Unexpected error, or stored data is damaged. With damaged data the type ends in `/damaged-data`: do not "
    "ask again.",
    "503": "All places of the worker process are taken, or stored data cannot be read now. Ask again.",
}
NOT_READY = {"503": "A run cannot be read. Ask again."}
BATCH = {
    "200": {
        "description": "The batch.",
        "headers": {
            "ETag": {"schema": {"type": "string"}, "description": "Strong ETag, a hash of the body."},
            "Cache-Control": {"schema": {"type": "string"}, "description": "Any cache may keep the response."},
        },
        "content": {wire.CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    },
    "304": {"description": "The header If-None-Match names this batch's ETag: the client has the body already."},
}


def complete(app: FastAPI) -> None:
    """Make `app.openapi()` return the complete document."""
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(derive())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema()
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own 422, which this server never sends
        schemas.pop(name, None)
    for path, item in schema["paths"].items():
        responses = item["get"]["responses"]
        responses.pop("422", None)
        if path == BATCH_PATH:
            responses |= BATCH
        for status, description in _problems(path).items():
            responses[status] = _problem_response(status, description)
        item["get"]["responses"] = dict(sorted(responses.items()))
    return schema


def _problems(path: str) -> dict[str, str]:
    """The problems that a path can respond with: their descriptions by status."""
    problems = dict(ANY_PATH)
    if "{run}" in path:
        problems |= RUN_PATH
    if "{step}" in path:
        problems |= STEP_PATH
    if path == READY_PATH:
        problems |= NOT_READY
    return problems


def _problem_response(status: str, description: str) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": description,
        "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status == "503":
        wait = f"Seconds to wait before asking again ({RETRY_AFTER_SECONDS})."
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": wait}}
    return response
