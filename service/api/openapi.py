"""The OpenAPI description: what FastAPI derives from the routes, plus the problem documents that all of them share."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service.api.problems import CONTENT_TYPE, Problem
from tst_data.contract import wire

__all__ = ["describe"]

BATCH_PATH = "/v1/runs/{run}/batches/{step}"
ANY_PATH = {"405": "only GET and HEAD are allowed", "500": "unexpected error", "503": "not ready or overloaded"}
RUN_PATH = {"404": "unknown run, or a step past its end", "422": "a parameter cannot be read or cannot be right"}
DATA_PATH = {"500": "unexpected error, or damaged data (type ends in /damaged-data: do not ask again)"}


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` complete."""
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(derive())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema()
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path, item in schema["paths"].items():
        problems = dict(ANY_PATH)
        if "{run}" in path:
            problems |= RUN_PATH
        if "{step}" in path:
            problems |= DATA_PATH
        responses = item["get"]["responses"]
        responses.pop("422", None)
        for status, description in problems.items():
            responses[status] = {
                "description": description,
                "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
        responses["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    answers = schema["paths"][BATCH_PATH]["get"]["responses"]
    answers["200"] = {
        "description": "the batch",
        "headers": {"ETag": {"schema": {"type": "string"}}, "Cache-Control": {"schema": {"type": "string"}}},
        "content": {wire.CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
    answers["304"] = {"description": "the body named by If-None-Match is still right; it always is"}
    return schema
