"""A run of a batch server, over HTTP: what is tried again, for how long, and what ends the training.

Tried again until the deadline: connections that fail, timeouts, 408, 429 and 5xx (Retry-After is respected). A body
that fails its checks, or that is of other data, is requested again a few times, because the damage may have happened on
the way. A server that reports damaged data itself is believed at once. Everything else is an error of the request and
is raised as such.
"""

from __future__ import annotations

import http.client
import logging
import ssl
import threading
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import torch
from pydantic import ValidationError

from trainer_client.stream.http_connection import MAX_TEXT_BYTES, HttpConnection
from trainer_client.stream.http_responses import RefusedError, TemporaryError, check_description, received
from trainer_client.stream.receive_buffers import ReceiveBuffers
from trainer_client.stream.retry import retrying
from trainer_client.stream.source import Received
from tst_data.contract import wire
from tst_data.contract.description import RunDescription
from tst_data.errors import DamagedDataError, ForeignDataError, InvalidInputError, UnavailableError

__all__ = ["HttpSource"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FRAMING_BYTES = 64 << 10
"""Schema, metadata and padding around a batch's columns take far less than this."""

NUM_DAMAGED_TRIES = 3
_DAMAGED = (DamagedDataError, ForeignDataError)
LOG_EVERY_SECONDS = 10.0
RUN_URL = "http(s)://host:port/v1/runs/NAME"


class HttpSource:
    """A run of a server."""

    def __init__(self, url: str, *, token: str | None, timeout_seconds: float, pin_memory: bool) -> None:
        self.location = url.rstrip("/")
        self.path, self._connect = _parse_url(self.location)
        self.max_readers = 16
        self.pin_memory = pin_memory
        self.timeout_seconds = timeout_seconds
        # One try gets a part of the time, so that a server that hangs once is asked again.
        self._try_seconds = min(60.0, timeout_seconds / 4)
        self._headers = {"User-Agent": "token-superposition", "Accept-Encoding": "identity"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {_checked_token(token)}"
        self.stop = threading.Event()
        self._buffers = ReceiveBuffers()
        self._lock = threading.Lock()
        self._num_retries = 0
        self._last_logged = float("-inf")
        reader = self.open_reader()
        try:
            self.description = reader.read_description()
        finally:
            reader.close()

    @property
    def num_retries(self) -> int:
        return self._num_retries

    def open_reader(self) -> HttpReader:
        connection = self._connect(self._try_seconds)
        return HttpReader(self, HttpConnection(connection, self._headers, self._buffers, self._try_seconds))

    def close(self) -> None:
        """End every wait and let no read begin. Whoever opened a reader closes it."""
        self.stop.set()

    def count_retry(self, what: str, error: BaseException) -> None:
        """Count a retry, and log it unless one was logged a moment ago."""
        with self._lock:
            self._num_retries += 1
            now = time.monotonic()
            if now - self._last_logged < LOG_EVERY_SECONDS:
                return
            self._last_logged = now
        logger.warning("trying again to read %s of %s: %s", what, self.location, error)


class HttpReader:
    """Reads over one connection, in one thread."""

    def __init__(self, source: HttpSource, connection: HttpConnection) -> None:
        self._source = source
        self._connection = connection

    def read(self, step: int, rank: int, world_size: int) -> Received:
        """One rank of a step. The module says what is tried again, `tst_data.errors` what can be raised."""
        source = self._source
        phase = source.description.phase(step)
        token_bytes = 2 if source.description.dtype == "uint16" else 4
        row_bytes = phase.window_length * token_bytes + 2 + 8
        return self._until_deadline(
            f"step {step}",
            f"{source.path}/batches/{step}?rank={rank}&world_size={world_size}",
            wire.CONTENT_TYPE,
            lambda body: received(body, source.description, step, rank, world_size),
            limit_bytes=phase.batch_size // world_size * row_bytes + MAX_FRAMING_BYTES,
            pin_memory=source.pin_memory,
        )

    def read_description(self) -> RunDescription:
        """The run's description. Waits for a server that has not started yet."""

        def understand(body: torch.Tensor) -> RunDescription:
            try:
                description = RunDescription.model_validate_json(bytes(body.numpy()))
            except ValidationError:
                raise DamagedDataError("the response is not the description of a run") from None
            except ForeignDataError as other_order:
                message = f"the run {other_order}; install the same version here and on the server"
                raise RefusedError(ForeignDataError, message) from None
            check_description(description)
            return description

        return self._until_deadline(
            "the description",
            self._source.path,
            "application/json",
            understand,
            limit_bytes=MAX_TEXT_BYTES,
            pin_memory=False,
        )

    def abort(self) -> None:
        """Cut off a read that another thread is waiting for, and its waits. No other read begins."""
        self._source.close()
        self._connection.abort()

    def close(self) -> None:
        self._connection.close()

    def _until_deadline(
        self,
        what: str,
        path: str,
        content_type: str,
        understand: Callable[[torch.Tensor], T],
        *,
        limit_bytes: int,
        pin_memory: bool,
    ) -> T:
        """Request `path` until a body is understood, the request is refused, or the deadline has passed."""
        source = self._source
        deadline = time.monotonic() + source.timeout_seconds
        num_damaged = 0

        def request() -> T:
            if source.stop.is_set():
                raise TemporaryError("closed")
            body = self._connection.get(
                path,
                content_type,
                limit_bytes=limit_bytes,
                deadline=deadline,
                pin_memory=pin_memory,
                past_caches=num_damaged > 0,  # the copy of a proxy may be the damaged one
            )
            try:
                return understand(body)
            except _DAMAGED:
                self._connection.close()  # a new connection may lead to another replica
                raise

        def worth_another_try(error: BaseException) -> bool:
            nonlocal num_damaged
            num_damaged += isinstance(error, _DAMAGED)
            return isinstance(error, TemporaryError) or (
                isinstance(error, _DAMAGED) and num_damaged < NUM_DAMAGED_TRIES
            )

        attempts = retrying(
            timeout_seconds=source.timeout_seconds,
            stop=source.stop,
            worth_another_try=worth_another_try,
            before_wait=lambda error: source.count_retry(what, error),
        )
        place = f"{what} of {source.location}"
        try:
            result: T = attempts(request)
            return result
        except RefusedError as refused:
            raise refused.error(f"{place}: {refused}") from None
        except _DAMAGED as damaged:
            raise type(damaged)(f"{place}: requested {num_damaged} times: {damaged}") from None
        except TemporaryError as last:
            if source.stop.is_set():
                raise UnavailableError(f"{place}: the stream was closed; make a new BatchStream to continue") from None
            raise UnavailableError(
                f"{place}: could not be read within {source.timeout_seconds:g} s, last error: {last}; "
                "check that the server runs, or raise timeout_seconds"
            ) from None


def _parse_url(url: str) -> tuple[str, Callable[[float], http.client.HTTPConnection]]:
    """The path of a run's URL, and a function that makes a connection to its server with a timeout in seconds."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as error:
        raise InvalidInputError(f"source {url!r}: not a URL ({error}); give {RUN_URL}") from None
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError("source: the URL contains a user name or a password; pass a token as token=...")
    segments = parts.path.split("/")
    named = len(segments) >= 4 and segments[-3:-1] == ["v1", "runs"] and segments[-1] != ""
    if not host or not named or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        raise InvalidInputError(f"source {url!r}: not the URL of a run; give {RUN_URL}")
    if " " in url:
        raise InvalidInputError(f"source {url!r}: contains a space; give {RUN_URL}")
    if parts.scheme.lower() == "https":
        context = ssl.create_default_context()
        return parts.path, lambda seconds: http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
    return parts.path, lambda seconds: http.client.HTTPConnection(host, port, timeout=seconds)


def _checked_token(token: str) -> str:
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInputError("token: expected a string of printable ASCII characters without spaces")
    return token
