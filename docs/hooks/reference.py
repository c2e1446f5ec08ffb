"""The hook of MkDocs that fills the reference pages from the code, so that they cannot say something else.

A page holds a marker on a line alone, and the marker becomes Markdown while the site is built:

    <!-- fields MODULE:MODEL -->      the keys of a pydantic model and of the models in it
    <!-- commands PROGRAM -->         the commands of a program, as their --help says
    <!-- http -->                     the paths of the server, from its OpenAPI description
    <!-- faults -->                   the fault matrix, from the docstrings of its tests

Besides the pages it writes the files that programs read: run.schema.json, training.schema.json and openapi.json.
Anything that a marker names and the code does not have ends the build.
"""

from __future__ import annotations

import importlib
import json
import re
from functools import cache
from typing import Any

from command_tables import command_sections
from field_tables import field_sections
from http_tables import http_sections, served_openapi
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

__all__ = ["on_files", "on_page_markdown"]

_MARKER = re.compile(r"^<!-- (fields|commands|http|faults) ?(\S*) -->$", re.MULTILINE)

_PROGRAMS = {"tst-data": "tst_data.cli:app", "tst-serve": "service.cli:app", "tst-train": "trainer_client.cli:app"}

_SCHEMAS = {
    "reference/run.schema.json": "tst_data.run.specification:RunSpecification",
    "reference/training.schema.json": "trainer_client.trainer.config:TrainConfig",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated files to the site."""
    contents = {path: _found(name).model_json_schema() for path, name in _SCHEMAS.items()}
    contents["reference/openapi.json"] = _openapi()
    for path, content in contents.items():
        files.append(File.generated(config, path, content=json.dumps(content, indent=2) + "\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the markers of a page."""
    return _MARKER.sub(lambda marker: _section(marker[1], marker[2]), markdown)


def _section(kind: str, name: str) -> str:
    if kind == "http":
        return http_sections(_openapi())
    if kind == "faults":
        sections: str = _found("tests.restarts.faults.table:fault_sections")()
        return sections
    if kind == "commands":
        return command_sections(name, _found(_PROGRAMS[name]))
    return field_sections(_found(name).model_json_schema())


def _found(name: str) -> Any:
    """The object that MODULE:NAME says."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def _openapi() -> dict[str, Any]:
    return served_openapi()
