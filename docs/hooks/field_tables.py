"""Tables of keys from a JSON Schema: one for the model itself, and one for each model inside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["cell", "field_sections", "type_in_words"]

_SHOWN_LIMIT = 1 << 53
"""Larger bounds only keep numbers within 64 bits; nobody comes near them."""


def field_sections(schema: Mapping[str, Any]) -> str:
    """Markdown: the table of the schema's keys, then a section for each mapping that a key holds."""
    sections = [_table(schema)]
    definitions = schema.get("$defs", {})
    for name, field in schema["properties"].items():
        for model, is_list in _models(field):
            definition = definitions[model]
            title = f"Each entry of `{name}`" if is_list else f"`{name}`"
            sections.append(f"## {title}\n\n{definition['description']}\n\n{_table(definition)}")
    return "\n\n".join(sections)


def cell(text: str) -> str:
    """Text in one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def type_in_words(field: Mapping[str, Any]) -> str:
    """What a key may hold."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(type_in_words(choice) for choice in field["anyOf"]))
    if "$ref" in field:
        return "mapping"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return _list_in_words(field)
    names = {"integer": "whole number", "object": "mapping", "boolean": "`true`, `false`", "null": "`null`"}
    name = names.get(field["type"], field["type"])
    return ", ".join([name, *_bounds(field)])


def _list_in_words(field: Mapping[str, Any]) -> str:
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])}; each: {type_in_words(field['prefixItems'][0])}"
    return f"list; each: {type_in_words(field['items'])}"


def _bounds(field: Mapping[str, Any]) -> Iterator[str]:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    for key, word in words.items():
        if key in field and field[key] < _SHOWN_LIMIT:
            yield f"{word} {field[key]:g}"
    if "maxLength" in field:
        yield f"at most {field['maxLength']} characters"


def _table(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", [])
    rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in schema["properties"].items():
        default = "required" if name in required else _default(field)
        description = cell(field.get("description", ""))
        rows.append(f"| `{name}` | {type_in_words(field)} | {default} | {description} |")
    return "\n".join(rows)


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field:
        return "as described"
    value = field["default"]
    if isinstance(value, Mapping):
        return "its defaults"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _models(field: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Names of the models that a key holds, and whether it holds a list of them."""
    for choice in field.get("anyOf", [field]):
        for part, is_list in ((choice, False), (choice.get("items", {}), True)):
            if "$ref" in part:
                yield part["$ref"].rpartition("/")[2], is_list
