"""The exception tree. Every message is one line: `PLACE: problem; remedy`.

    TSTError                     500  base of all errors that a user can cause or must know about
    ├── InvalidInputError        422  a value, file or option that cannot work as given
    ├── NotFoundError            404  a run, step or path that does not exist
    ├── DamagedDataError         500  bytes that are not what was written; never retried
    ├── ForeignDataError         500  data of another fingerprint than the one expected
    └── UnavailableError         503  a server, or data, that cannot be reached or read now; retried

Only a file that is missing, of another size or of another hash is damaged. What may pass (too many open files, no
permission, a stale mount, an I/O error, too little memory) makes data unavailable: `tst_data.dataset.folder` decides.

The number is the HTTP status of the problem document that the service makes of the error. Command lines print the
message and exit with 1. Any other exception that escapes is a defect of ours, and shows its stack trace.

A message may hold names and values that others wrote. `str(error)` shows their control characters as escapes and
shortens what is too long, so no terminal, log or page has to; `error.args` has the message as it was given.
"""

from __future__ import annotations

from tst_data.visible_text import one_line

__all__ = [
    "DamagedDataError",
    "ForeignDataError",
    "InvalidInputError",
    "NotFoundError",
    "TSTError",
    "UnavailableError",
]


class TSTError(Exception):
    """Base of all errors that a user can cause or must know about."""

    status = 500

    def __str__(self) -> str:
        return one_line(super().__str__())


class InvalidInputError(TSTError, ValueError):
    """A value, file or option that cannot work as given (HTTP 422)."""

    status = 422


class NotFoundError(TSTError, LookupError):
    """A run, step or path that does not exist (HTTP 404)."""

    status = 404


class DamagedDataError(TSTError):
    """Bytes that are not what was written: missing, or of wrong length or hash (HTTP 500, never retried)."""


class ForeignDataError(TSTError):
    """Data of another fingerprint than the one expected: both are in the message."""


class UnavailableError(TSTError, TimeoutError):
    """A server that is too busy or did not respond in time, or data that cannot be read now (HTTP 503, retried)."""

    status = 503
