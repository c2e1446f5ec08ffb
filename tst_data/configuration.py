"""Files and values that people write: one base for all models, and validation errors in our words.

Run files, training files, server settings and query parameters are pydantic models over `Frozen`. Every error of
theirs becomes one line in the words of all other messages: the place, what was expected, what was given. The text
after a field in the source is its description, in the generated reference and in `--help`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tst_data.errors import InvalidInputError
from tst_data.given_files import read_small_file
from tst_data.structured_text import MAX_JSON_CHARACTERS, parse_structured
from tst_data.visible_text import one_line

__all__ = ["Frozen", "load_model", "parse_model", "problem_in_words", "shown", "validation_message"]

Model = TypeVar("Model", bound=BaseModel)

MAX_FILE_BYTES = MAX_JSON_CHARACTERS

_EXPECTED = {
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "dict_type": "expected a mapping",
    "finite_number": "expected a finite number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "int_from_float": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "list_type": "expected a list",
    "literal_error": "expected {expected}",
    "model_attributes_type": "expected a mapping of keys",
    "model_type": "expected a mapping of keys",
    "string_too_long": "expected at most {max_length} characters",
    "string_too_short": "expected at least {min_length} characters",
    "string_type": "expected a string",
    "too_long": "expected at most {max_length}, found {actual_length}",
    "too_short": "expected at least {min_length}, found {actual_length}",
    "tuple_type": "expected a list",
}
"""What pydantic expected, by the type of its error."""

_KINDS = {str: "a string", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "a mapping"}


class Frozen(BaseModel):
    """A model that cannot change after it was made, and refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def load_model(path: Path, model: type[Model], *, place: str, keys: str) -> Model:
    """The model that a YAML or JSON file describes.

    `place` names the kind of file in messages ("run file"), `keys` says what it holds. Raises NotFoundError where
    there is no such file, InvalidInputError where it is not such a file; both name the file.
    """
    where = f"{place} '{path}'"
    data = read_small_file(path, place=where, wanted="a YAML or JSON file", limit=MAX_FILE_BYTES)
    try:
        return parse_model(data.decode(), model, keys=keys, json_only=path.suffix == ".json")
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text ({error.reason} at byte {error.start:,}); save it as UTF-8"
    except InvalidInputError as error:
        problem = str(error)
    raise InvalidInputError(f"{where}: {problem}")


def parse_model(text: str, model: type[Model], *, keys: str, json_only: bool = False) -> Model:
    """The model that the text of a YAML or JSON file describes. Raises InvalidInputError."""
    content = parse_structured(text, json_only=json_only)
    if content is None and not any(field.is_required() for field in model.model_fields.values()):
        content = {}
    if not isinstance(content, dict):
        found = "nothing" if content is None else _KINDS.get(type(content), type(content).__name__)
        raise InvalidInputError(f"expected {keys}, found {found}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InvalidInputError(validation_message(error)) from None


def validation_message(error: ValidationError) -> str:
    """One problem of a pydantic validation as one line: where, what was expected, what was given.

    Of several the first, but an unknown key before all others: it is usually why another one is missing.
    """
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    place = ".".join(str(part) for part in first["loc"] if not _names_a_type(part))
    if first["type"] == "extra_forbidden":
        return f"unknown key '{place}'; remove it or correct its spelling"
    if first["type"] == "missing":
        return f"'{place}' is missing; add it"
    return f"'{place}': {problem_in_words(first)}" if place else problem_in_words(first)


def problem_in_words(problem: Mapping[str, Any]) -> str:
    """What one problem of `ValidationError.errors()` expected, and the value that was given where it is a short one."""
    expected = _EXPECTED.get(problem["type"])
    limits = {name: f"{at:g}" if isinstance(at, float) else at for name, at in problem.get("ctx", {}).items()}
    message = expected.format(**limits) if expected else problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    if problem["type"] == "string_too_short" and not given:
        message = "expected a string that is not empty"
    if isinstance(given, Mapping | Sequence) and not isinstance(given, str):
        return message
    remedy = ""
    if problem["type"].startswith("int") and isinstance(given, float):
        remedy = "; write it without a point or an exponent"
    if problem["type"] == "string_type" and isinstance(given, int | float):
        remedy = "; put it in quotes"
    return f"{message} (given: {shown(given)}){remedy}"


def shown(value: Any) -> str:
    """A value as its writer knows it: null, true and false as YAML and JSON have them, strings in quotes."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return one_line(repr(value), 200)


def _names_a_type(part: int | str) -> bool:
    """Whether a part of a place is pydantic's name for one of the types that a key may have, and not a key."""
    return (
        isinstance(part, str)
        and re.fullmatch(r"constrained-\w+|(dict|list|tuple|literal|function-\w+)\[.*", part) is not None
    )
