"""The value of a text that people write: JSON as JSON, YAML by the core schema of YAML 1.2, and nothing besides.

YAML 1.1, which PyYAML resolves, reads `010` as 8, `1:30` as 90 and `no` as false; its merge keys and aliases let a
text of 1 kB take hours. So only PyYAML's parser is used, and the values are made here: null, true, false, numbers and
strings as JSON has them. Merge keys, anchors, aliases, tags and further documents are refused by name, and so is a
number that begins with 0, because people mean either 8 or 10 by `010`. A second YAML library would be a dependency of
every trainer node and would need the same refusals.

Size and depth are checked before anything is built. PyYAML reads 1 MiB in 4 to 20 s, so a YAML text may have 256 KiB
(5 s at worst); a JSON text may have 16 MiB.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

from tst_data.errors import InvalidInputError

__all__ = ["MAX_DEPTH", "MAX_JSON_CHARACTERS", "MAX_YAML_CHARACTERS", "parse_structured"]

MAX_JSON_CHARACTERS = 1 << 24
MAX_YAML_CHARACTERS = 1 << 18
MAX_DEPTH = 64
"""Lists and mappings within each other."""
MAX_NUMBER_CHARACTERS = 1000

_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]:]|-?Infinity|NaN|-?[0-9][0-9.eE+-]*')
_JSON_PROBLEMS = {
    "Expecting property name enclosed in double quotes": "expected a key in double quotes",
    "Expecting ':' delimiter": "expected ':'",
    "Expecting ',' delimiter": "expected ','",
    "Expecting value": "expected a value",
    "Extra data": "something follows its end",
    "Illegal trailing comma before end of array": "a comma before the end of a list",
    "Illegal trailing comma before end of object": "a comma before the end of a mapping",
    "Invalid control character at": "a control character in a string",
    "Invalid \\escape": "a backslash that escapes nothing",
    "Invalid \\uXXXX escape": "expected four hex digits after \\u",
    "Unterminated string starting at": "a string without an end",
}
"""What is wrong with a JSON text, by the message of Python's parser."""

_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_PREFIXED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")


class _SyntaxError(InvalidInputError):
    """The text is not JSON. It may be YAML."""


def parse_structured(text: str, *, json_only: bool = False) -> Any:
    """The value of a JSON or YAML text; with `json_only` it must be JSON. Raises InvalidInputError with the place.

    A text that begins with `{` and is JSON is read as JSON, any other one as YAML.
    """
    text = text.removeprefix("\ufeff")
    if not json_only and not re.match(r"\s*\{", text):
        return _parse_yaml(text)
    try:
        return _parse_json(text)
    except _SyntaxError as error:
        if json_only:
            raise InvalidInputError(str(error)) from None
        try:
            return _parse_yaml(text)
        except InvalidInputError:
            if re.match(r'\s*\{\s*"', text):  # meant as JSON: what YAML says about it would mislead
                raise InvalidInputError(str(error)) from None
            raise


def _at(line: int, column: int, problem: str) -> str:
    return f"line {line}, column {column}: {problem}"


def _at_mark(mark: Any, problem: str) -> str:
    """The problem at a place as PyYAML gives it, which counts from 0."""
    return _at(mark.line + 1, mark.column + 1, problem) if mark else problem


def _parse_json(text: str) -> Any:
    if len(text) > MAX_JSON_CHARACTERS:
        raise InvalidInputError(f"has {len(text):,} characters, expected at most {MAX_JSON_CHARACTERS:,}; shorten it")
    value = None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        problem = _JSON_PROBLEMS.get(error.msg, error.msg)
        raise _SyntaxError(_at(error.lineno, error.colno, f"not valid JSON ({problem}); correct it")) from None
    except (ValueError, RecursionError):  # a number with too many digits, too many levels: the check below says where
        pass
    _check_json(text)
    return value


def _check_json(text: str) -> None:
    """Refuse what Python's parser lets pass: equal keys, NaN and infinities, and what is too deep or too long."""
    mappings: list[set[str] | None] = []  # the keys of each open mapping, None for an open list
    string = None
    for token in _JSON_TOKEN.finditer(text):
        found = token[0]
        try:
            if found in ("{", "["):
                mappings.append(set() if found == "{" else None)
                _check_depth(len(mappings))
            elif found in ("}", "]"):
                mappings.pop()
            elif found[0] == '"':
                string = token
                _check_string(json.loads(found) if "\\" in found else found)
            elif found != ":":
                _check_number(found)
            elif string is not None and mappings and (keys := mappings[-1]) is not None:
                token = string
                _check_new(json.loads(string[0]), keys)
        except InvalidInputError as error:
            line = text.count("\n", 0, token.start()) + 1
            column = token.start() - text.rfind("\n", 0, token.start())
            raise InvalidInputError(_at(line, column, str(error))) from None


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"is nested too deeply, in more than {MAX_DEPTH} levels; nest it less")


def _check_new(key: str, keys: set[str]) -> None:
    if key in keys:
        raise InvalidInputError(f"the key '{key}' appears twice; remove one")
    keys.add(key)


def _check_string(string: str) -> None:
    if _HALF_CHARACTER.search(string):
        raise InvalidInputError("a string holds half a character (a lone surrogate); write the whole character")


def _check_length(number: str) -> None:
    if len(number) > MAX_NUMBER_CHARACTERS:
        raise InvalidInputError(
            f"a number has {len(number):,} characters, expected at most {MAX_NUMBER_CHARACTERS:,}; shorten it"
        )


def _check_number(number: str) -> float:
    """The value of a number as a float. Refuses one that a float cannot hold, unless it is a whole number."""
    _check_length(number)
    if number in ("NaN", "Infinity", "-Infinity"):
        raise InvalidInputError(f"{number} is not a number in JSON; write a finite one")
    value = float(number)
    if math.isinf(value) and not _INTEGER.fullmatch(number):
        raise InvalidInputError(f"the number {number} is too large; write a smaller one")
    return value


def _parse_yaml(text: str) -> Any:
    if len(text) > MAX_YAML_CHARACTERS:
        raise InvalidInputError(
            f"has {len(text):,} characters, expected at most {MAX_YAML_CHARACTERS:,}; shorten it, or write it as JSON, "
            f"which may have {MAX_JSON_CHARACTERS:,}"
        )
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            try:
                builder.take(event)
            except InvalidInputError as error:
                raise InvalidInputError(_at_mark(event.start_mark, str(error))) from None
    except yaml.MarkedYAMLError as error:
        problem = f"not valid YAML or JSON ({error.problem or error.context}); correct it"
        raise InvalidInputError(_at_mark(error.problem_mark or error.context_mark, problem)) from None
    except yaml.reader.ReaderError as error:
        lines = text[: error.position].split("\n")
        problem = f"not valid YAML or JSON ({error.reason}); remove the character"
        raise InvalidInputError(_at(len(lines), len(lines[-1]) + 1, problem)) from None
    return builder.result


@dataclass
class _Open:
    """A list or mapping whose end has not come yet. `key` is that of the mapping's next value."""

    content: list[Any] | dict[str, Any]
    key: str | None = None

    @property
    def expects_key(self) -> bool:
        return isinstance(self.content, dict) and self.key is None


class _Builder:
    """Makes the value of the one document from the parser's events."""

    def __init__(self) -> None:
        self.result: Any = None
        self._open: list[_Open] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """Take the next event. Raises InvalidInputError for what is not read."""
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise InvalidInputError("a second document begins; give each its own file")
            if event.version not in (None, (1, 2)):
                raise InvalidInputError("asks for another version of YAML; it is read as YAML 1.2: remove the line")
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
        elif isinstance(event, yaml.AliasEvent):
            raise InvalidInputError(f"aliases such as *{event.anchor} are not read; write the value out")
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            self._take_node(event)

    def _take_node(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.anchor is not None:
            raise InvalidInputError(f"anchors such as &{event.anchor} are not read; remove it")
        if event.tag is not None:
            raise InvalidInputError(f"tags such as {event.tag} are not read; remove it")
        is_key = bool(self._open) and self._open[-1].expects_key
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
            self._add_key(event, value) if is_key else self._add(value)
            return
        if is_key:
            raise InvalidInputError("a key is a list or a mapping; write a string")
        _check_depth(len(self._open) + 1)
        content: list[Any] | dict[str, Any] = [] if isinstance(event, yaml.SequenceStartEvent) else {}
        self._add(content)
        self._open.append(_Open(content))

    def _add_key(self, event: yaml.ScalarEvent, key: Any) -> None:
        if event.value == "<<" and not event.style:
            raise InvalidInputError("merge keys (<<) are not read; write the keys out")
        if not isinstance(key, str):
            raise InvalidInputError(f"the key {event.value or 'null'} is not a string; put it in quotes")
        mapping = self._open[-1]
        if key in mapping.content:
            raise InvalidInputError(f"the key '{key}' appears twice; remove one")
        mapping.key = key

    def _add(self, value: Any) -> None:
        if not self._open:
            self.result = value
            return
        parent = self._open[-1]
        if isinstance(parent.content, list):
            parent.content.append(value)
        elif parent.key is not None:
            parent.content[parent.key] = value
            parent.key = None


def _scalar(event: yaml.ScalarEvent) -> Any:
    """The value of a scalar by the core schema: one in quotes is a string."""
    text = event.value
    if event.style:
        _check_string(text)
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if not text.startswith(tuple("+-.0123456789")):
        return text
    if _LEADING_ZERO.fullmatch(text):
        _check_length(text)
        raise InvalidInputError(
            f"the number {text} begins with 0; write {int(text)}, or put it in quotes if it is a string"
        )
    if _INTEGER.fullmatch(text) or _PREFIXED.fullmatch(text):
        _check_length(text)
        return int(text, 0)
    return _check_number(text) if _FLOAT.fullmatch(text) else text
