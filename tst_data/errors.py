"""The exception tree. Every message is one line: what was given, what was expected, what to do.

Command lines print the message and exit with 1; the service answers it as a problem document with the status
that stands beside the class. Anything else that escapes is a defect of ours, and shows its stack trace.
"""

from __future__ import annotations

from pydantic import ValidationError

__all__ = [
    "DamagedDataError",
    "ForeignDataError",
    "InvalidInputError",
    "NotFoundError",
    "TSTError",
    "UnavailableError",
    "validation_message",
]


_EXPECTED = {
    "bool_type": "expected true or false",
    "finite_number": "expected a finite number",
    "float_type": "expected a number",
    "greater_than": "expected more than {gt:g}",
    "greater_than_equal": "expected at least {ge}",
    "int_from_float": "expected a whole number",
    "int_type": "expected a whole number",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "literal_error": "expected {expected}",
    "string_pattern_mismatch": "expected a text that matches {pattern}",
    "string_too_long": "expected at most {max_length} characters",
    "string_too_short": "expected at least {min_length} characters",
    "string_type": "expected a text",
    "too_short": "expected at least {min_length}, found {actual_length}",
}
"""What pydantic expected, by the type of its error, in the words of all other messages."""


class TSTError(Exception):
    """Base of all errors that a user can cause or must know of."""

    status = 500


class InvalidInputError(TSTError, ValueError):
    """A value, file or option that cannot work as given (HTTP 422)."""

    status = 422


class NotFoundError(TSTError, LookupError):
    """A run, step or path that does not exist (HTTP 404)."""

    status = 404


class DamagedDataError(TSTError):
    """Stored or received bytes that are not what was written: wrong hash or length (HTTP 500, never retried)."""


class ForeignDataError(TSTError):
    """Data of another fingerprint than the one expected: both stand in the message."""


class UnavailableError(TSTError, TimeoutError):
    """A server that did not answer within the deadline, or is too busy (HTTP 503)."""

    status = 503


def validation_message(error: ValidationError) -> str:
    """One problem of a pydantic validation as one line: where, what was expected, what was given.

    Of several the first, but an unknown key before all: it is usually why another one is missing.
    """
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{place}'; remove it or correct its spelling"
    if first["type"] == "missing":
        return f"'{place}' is missing"
    expected = _EXPECTED.get(first["type"])
    message = expected.format(**first.get("ctx", {})) if expected else first["msg"].removeprefix("Value error, ")
    where = f"'{place}': " if place else ""
    given = first["input"]
    if isinstance(given, dict | list | tuple):
        return f"{where}{message}"
    return f"{where}{message} (given: {given!r})"
