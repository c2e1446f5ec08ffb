"""What a response of a batch server means: a batch, a reason to ask again, or an error to raise.

No sockets here: these functions read statuses, headers and bodies. For any bytes in a body the result is the batch that
was asked for, or one of our errors.
"""

from __future__ import annotations

import datetime
import email.utils
import http.client
import json

import torch

from trainer_client.stream.source import Received
from tst_data.contract import wire
from tst_data.contract.batch import BatchHeader, WindowBatch
from tst_data.contract.description import RunDescription
from tst_data.errors import DamagedDataError, ForeignDataError, InvalidInputError, NotFoundError, TSTError
from tst_data.visible_text import one_line

__all__ = [
    "RefusedError",
    "TemporaryError",
    "check_content_type",
    "check_description",
    "describe_error",
    "failure",
    "received",
    "retry_after_seconds",
]


MAX_MESSAGE = 600
"""Characters of what a server says about a failure that go into a message."""


class TemporaryError(Exception):
    """A failure that is worth another try. Its message says what happened."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RefusedError(Exception):
    """A response that another try would not change."""

    def __init__(self, error: type[TSTError], message: str) -> None:
        super().__init__(message)
        self.error = error


def received(memory: torch.Tensor, description: RunDescription, step: int, rank: int, world_size: int) -> Received:
    """The batch of a body (n,) uint8. Raises DamagedDataError, or ForeignDataError for data of another run."""
    batch = wire.decode(memory.numpy().data)
    _check_header(batch, description, step, rank, world_size)
    # The windows are a view of the tensor that owns the memory. So torch knows that a page-locked block is in use while
    # it is copied to a device.
    begin = batch.windows.ctypes.data - memory.data_ptr()
    if not 0 <= begin <= len(memory) - batch.windows.nbytes or begin % batch.windows.dtype.itemsize:
        raise DamagedDataError("the windows in the body are compressed or not aligned")
    dtype = torch.uint16 if batch.windows.dtype.itemsize == 2 else torch.uint32
    windows = memory[begin : begin + batch.windows.nbytes].view(dtype).view(batch.windows.shape)
    return Received(batch, windows, len(memory))


def _check_header(batch: WindowBatch, description: RunDescription, step: int, rank: int, world_size: int) -> None:
    """Raise unless this is the batch that was asked for, of the run that was described."""
    header = batch.header
    if header.fingerprint != description.fingerprint:
        raise ForeignDataError(
            f"the server now has data with fingerprint {header.fingerprint}, but this stream began with "
            f"{description.fingerprint}; serve the run that it began with, or make a new BatchStream"
        )
    expected = BatchHeader.of(description, description.phase(step), step, rank, world_size, header.checksum)
    for name, value in vars(expected).items():
        if getattr(header, name) != value:
            raise DamagedDataError(f"the batch says {name} {getattr(header, name)!r}, expected {value!r}")
    if batch.windows.dtype.name != description.dtype:
        raise DamagedDataError(f"the windows are {batch.windows.dtype.name}, expected {description.dtype}")


def check_description(description: RunDescription) -> None:
    """Raise unless each phase begins where the one before it ends, has sizes that a window can have, and all together
    have the run's fingerprint."""
    first_step = 0
    for phase in description.phases:
        sizes = (phase.steps, phase.bag_size, phase.sequence_length, phase.batch_size)
        if phase.first_step != first_step or min(sizes) < 1 or phase.window_length != phase.geometry.window_length:
            raise DamagedDataError(f"the description of phase {phase.phase} contradicts itself")
        first_step = phase.end_step
    if first_step == 0 or first_step != description.total_steps:
        raise DamagedDataError(f"the description has {description.total_steps} steps, but its phases have {first_step}")
    description.check_identity()


def check_content_type(response: http.client.HTTPResponse, expected: str) -> None:
    """Raise DamagedDataError where the body is of another content type."""
    found = response.headers.get_content_type()
    if found != expected:
        raise DamagedDataError(f"the response is {found}, expected {expected}")


def failure(response: http.client.HTTPResponse, body: torch.Tensor) -> Exception:
    """The error that a response with another status than 200 means."""
    status = response.status
    problem_type, detail = _problem(bytes(body.numpy()))
    message = one_line(f"{status} {response.reason}" + (f": {detail}" if detail else ""), MAX_MESSAGE)
    if status >= 500 and problem_type.endswith("/damaged-data"):
        return RefusedError(DamagedDataError, message)
    if status >= 500 or status in (408, 429):
        return TemporaryError(message, retry_after_seconds(response.headers.get("Retry-After")))
    if status in (404, 410):
        return RefusedError(NotFoundError, message)
    if status in (401, 403):
        return RefusedError(InvalidInputError, f"{message}; pass a valid token=...")
    if 300 <= status < 400:
        target = response.headers.get("Location", "elsewhere")
        return RefusedError(InvalidInputError, f"{message}, a redirect to {target[:200]!r}; give that URL instead")
    return RefusedError(InvalidInputError, message)


def _problem(body: bytes) -> tuple[str, str]:
    """Type and detail of a problem document (RFC 9457). Each is "" if it is missing."""
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(problem, dict):
        return "", ""
    detail = problem.get("detail") or problem.get("title") or ""
    return str(problem.get("type", "")), " ".join(str(detail).split())


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds of a Retry-After that gives seconds or a date; None if it is missing or cannot be read."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max(0.0, (date - datetime.datetime.now(datetime.UTC)).total_seconds())


def describe_error(error: Exception) -> str:
    """The type of an error and its message, in one line."""
    text = one_line(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
