"""The OpenAPI document, from which the reference page is made. python -m pytest tests/server/test_openapi.py"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from service.settings import ServerSettings
from tests.support.serving import Server


@pytest.fixture(scope="module")
def schema(server: Server) -> dict[str, Any]:
    document: dict[str, Any] = server.ask("/openapi.json").json
    return document


def test_describes_every_path_and_its_problems(schema: dict[str, Any]) -> None:
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


def test_everything_that_a_reader_meets_is_described(schema: dict[str, Any]) -> None:
    assert schema["info"]["summary"]
    assert schema["info"]["description"]
    assert {tag["name"] for tag in schema["tags"] if tag["description"]} == {"runs", "batches", "operations"}
    for path, item in schema["paths"].items():
        operation = item["get"]
        assert operation["summary"][0].isupper(), path
        assert operation["description"].endswith("."), path
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (path, parameter["name"])
        for status, response in operation["responses"].items():
            assert response["description"] != "Successful Response", (path, status)
            assert response["description"].endswith("."), (path, status)
            for header in response.get("headers", {}).values():
                assert header["description"]
    for name, model in schema["components"]["schemas"].items():
        assert model["description"], name


def test_every_field_and_setting_is_described(schema: dict[str, Any]) -> None:
    for name, model in schema["components"]["schemas"].items():
        for field, described in model["properties"].items():
            assert described.get("description"), (name, field)
    assert [name for name, field in ServerSettings.model_fields.items() if not field.description] == []
