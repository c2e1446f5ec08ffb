"""The HTTP interface as Markdown, from the OpenAPI description that the server itself gives at /openapi.json."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from field_tables import cell, type_in_words

__all__ = ["http_sections", "served_openapi"]

_RUN = """
name: example
datasets: [{path: dataset}]
sequence_length: 2
batch_size: 1
phases: [{bag_size: 1, steps: 1}]
"""


def served_openapi() -> dict[str, Any]:
    """The description that a server gives. It serves a run of a few bytes, which is made for this."""
    from service.api.app import create_app
    from service.settings import ServerSettings

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "document.txt").write_text("a document")
        (folder / "run.yaml").write_text(_RUN)
        convert = f"convert {folder}/document.txt --tokenizer bytes --out {folder}/dataset".split()
        subprocess.run([sys.executable, "-m", "tst_data.cli", *convert], check=True, stdout=subprocess.DEVNULL)
        return create_app(ServerSettings.model_validate({"sources": [folder / "run.yaml"]})).openapi()


def http_sections(openapi: Mapping[str, Any]) -> str:
    """Markdown: a section for each path, with its parameters and responses."""
    return "\n\n".join(
        "\n\n".join(_section(path, item["get"])) for path, item in openapi["paths"].items() if "get" in item
    )


def _section(path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### GET {path}"
    yield operation.get("description", operation.get("summary", ""))
    parameters = operation.get("parameters", [])
    if parameters:
        rows = ["| parameter | in | value | default | meaning |", "| --- | --- | --- | --- | --- |"]
        yield "\n".join([*rows, *map(_parameter, parameters)])
    rows = ["| status | content | meaning |", "| --- | --- | --- |"]
    responses = sorted(operation["responses"].items())
    yield "\n".join([*rows, *(_response(status, response) for status, response in responses)])


def _parameter(parameter: Mapping[str, Any]) -> str:
    schema = parameter["schema"]
    default = "required" if parameter["required"] else f"`{schema['default']}`"
    meaning = cell(parameter.get("description", ""))
    return f"| `{parameter['name']}` | {parameter['in']} | {type_in_words(schema)} | {default} | {meaning} |"


def _response(status: str, response: Mapping[str, Any]) -> str:
    content = ", ".join(f"`{name}`" for name in response.get("content", {})) or "none"
    return f"| {status} | {content} | {cell(response['description'])} |"
