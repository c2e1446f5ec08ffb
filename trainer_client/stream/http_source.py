"""Batches of a server, over HTTP.

Plain `http.client` on a kept-alive connection: the body is read straight into a buffer of its size (page-locked
where there is a GPU), checked once, and never copied again: the windows are views of it. On loopback with 8 MB
bodies that moves 2.6 GB/s, urllib3 1.6 and httpx 0.6. Proxy settings of the environment and redirects are not
followed.

What is tried again until the deadline: connections that fail, time-outs, 408, 429 and 5xx (Retry-After is
honoured). Bodies that do not check, or are of other data, are asked for again a few times, for the damage may have
come on the way; a server that reports damaged data is believed at once. All else is an error of the request and
raised as such.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import torch
from pydantic import ValidationError

from trainer_client.stream.http_responses import (
    RefusedError,
    TemporaryError,
    check_description,
    describe_error,
    failure,
    received,
    require_type,
)
from trainer_client.stream.receive_buffers import ReceiveBuffers
from trainer_client.stream.retry import retrying
from trainer_client.stream.source import Received
from tst_data.contract import wire
from tst_data.contract.description import RunDescription
from tst_data.errors import (
    DamagedDataError,
    ForeignDataError,
    InvalidInputError,
    UnavailableError,
)

__all__ = ["HttpSource"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

READ_BYTES = 4 << 20
"""A body is read in pieces of this size, with a look at the deadline between them."""

MAX_TEXT_BYTES = 16 << 20
"""A description or error longer than this is not one."""

MAX_FRAMING_BYTES = 64 << 10
"""Schema, metadata and padding around a batch's columns: far more than they take."""

NUM_DAMAGED_TRIES = 3
_DAMAGED = (DamagedDataError, ForeignDataError)
LOG_EVERY_SECONDS = 10.0


class HttpSource:
    """A run of a server."""

    def __init__(self, url: str, *, token: str | None, timeout_seconds: float, pin_memory: bool) -> None:
        self.location = url.rstrip("/")
        self.path, self._connect = _parse_url(self.location)
        self.max_readers = 16
        self.pin_memory = pin_memory
        self.timeout_seconds = timeout_seconds
        # A try gets a share of the deadline, so that a server that hangs once is asked again.
        self.try_seconds = min(60.0, timeout_seconds / 4)
        self.headers = {"User-Agent": "token-superposition", "Accept-Encoding": "identity"}
        if token is not None:
            self.headers["Authorization"] = f"Bearer {_checked_token(token)}"
        self.stop = threading.Event()
        self.buffers = ReceiveBuffers()
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
        return HttpReader(self, self._connect(self.try_seconds))

    def close(self) -> None:
        """End every wait and let no read begin; readers are closed by who opened them."""
        self.stop.set()

    def count_retry(self, what: str, error: BaseException) -> None:
        """Count a retry, and log it where none was logged for a while."""
        with self._lock:
            self._num_retries += 1
            now = time.monotonic()
            if now - self._last_logged < LOG_EVERY_SECONDS:
                return
            self._last_logged = now
        logger.warning("trying again to read %s of %s: %s", what, self.location, error)


class HttpReader:
    """One kept-alive connection, used by one thread."""

    def __init__(self, source: HttpSource, connection: http.client.HTTPConnection) -> None:
        self._source = source
        self._connection = connection
        self._past_caches = False  # whether a proxy's copy may be what is wrong
        self._answered = False  # whether the open connection has carried an answer before

    def read(self, step: int, rank: int, world_size: int) -> Received:
        """One rank of a step. See the module on what is tried again, and DESIGN's errors on what is raised."""
        source = self._source
        phase = source.description.phase(step)
        token_bytes = 2 if source.description.dtype == "uint16" else 4
        row_bytes = phase.window_length * token_bytes + 2 + 8
        limit = phase.batch_size // world_size * row_bytes + MAX_FRAMING_BYTES
        path = f"{source.path}/batches/{step}?rank={rank}&world_size={world_size}"

        def receive(response: http.client.HTTPResponse, deadline: float) -> Received:
            require_type(response, wire.CONTENT_TYPE)
            memory = self._body(response, limit, deadline, pin_memory=source.pin_memory)
            return received(memory, source.description, step, rank, world_size)

        return self._until_deadline(f"step {step}", path, wire.CONTENT_TYPE, receive)

    def read_description(self) -> RunDescription:
        """The run's description; a server that is not up yet is waited for."""

        def receive(response: http.client.HTTPResponse, deadline: float) -> RunDescription:
            body = self._body(response, MAX_TEXT_BYTES, deadline)
            try:
                description = RunDescription.model_validate_json(bytes(body.numpy()))
            except ValidationError:
                raise DamagedDataError("the answer is not the description of a run") from None
            check_description(description)
            return description

        return self._until_deadline("the description", self._source.path, "application/json", receive)

    def abort(self) -> None:
        """Cut off a read that is under way in another thread, and its waits; no other is begun."""
        self._source.close()
        opened = self._connection.sock
        if opened is not None:
            with contextlib.suppress(OSError):  # not connected any more
                opened.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()

    def _until_deadline(
        self,
        what: str,
        path: str,
        accepted: str,
        receive: Callable[[http.client.HTTPResponse, float], T],
    ) -> T:
        """Ask for `path` until it is received, refused for good, or the deadline has passed."""
        source = self._source
        deadline = time.monotonic() + source.timeout_seconds
        num_damaged = 0
        self._past_caches = False

        def worth_another_try(error: BaseException) -> bool:
            nonlocal num_damaged
            num_damaged += isinstance(error, _DAMAGED)
            self._past_caches = num_damaged > 0
            return isinstance(error, TemporaryError) or (
                isinstance(error, _DAMAGED) and num_damaged < NUM_DAMAGED_TRIES
            )

        try:
            return retrying(
                timeout_seconds=source.timeout_seconds,
                stop=source.stop,
                worth_another_try=worth_another_try,
                before_wait=lambda error: source.count_retry(what, error),
            )(self._try, path, accepted, receive, deadline)
        except RefusedError as refused:
            raise refused.error(f"{what} of {source.location}: {refused}") from None
        except _DAMAGED as damaged:
            raise type(damaged)(f"{what} of {source.location}, asked for {num_damaged} times: {damaged}") from None
        except TemporaryError as last:
            if source.stop.is_set():
                raise UnavailableError(f"{what} of {source.location}: the stream was closed") from None
            raise UnavailableError(
                f"{what} of {source.location} could not be read within {source.timeout_seconds:g} s; "
                f"last error: {last}; see that the server runs, or raise timeout_seconds"
            ) from None

    def _try(
        self,
        path: str,
        accepted: str,
        receive: Callable[[http.client.HTTPResponse, float], T],
        deadline: float,
    ) -> T:
        """One request and its answer. The connection stays open only after an answer read to its end."""
        if self._source.stop.is_set():
            raise TemporaryError("closed")
        complete = False
        seconds = max(0.05, min(self._source.try_seconds, deadline - time.monotonic()))
        self._connection.timeout = seconds
        if self._connection.sock is not None:
            self._connection.sock.settimeout(seconds)
        try:
            response = self._ask(path, accepted)
            if response.status != http.client.OK:
                raise failure(response, self._body(response, MAX_TEXT_BYTES, deadline))
            result = receive(response, deadline)
            complete = response.isclosed()
            return result
        except ssl.SSLCertVerificationError as error:
            raise RefusedError(
                InvalidInputError, f"the server's certificate is not trusted: {error.verify_message}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise TemporaryError(describe_error(error)) from None
        finally:
            self._answered = complete
            if not complete:
                self._connection.close()

    def _ask(self, path: str, accepted: str) -> http.client.HTTPResponse:
        headers = {**self._source.headers, "Accept": accepted}
        if self._past_caches:
            headers["Cache-Control"] = "no-cache"
        try:
            self._connection.request("GET", path, headers=headers)
            return self._connection.getresponse()
        except (ConnectionError, http.client.BadStatusLine):
            # A server may close an idle connection at any time: that is no failure, a new one that fails is.
            if not self._answered:
                raise
        self._connection.close()
        self._connection.request("GET", path, headers=headers)
        return self._connection.getresponse()

    def _body(
        self, response: http.client.HTTPResponse, limit: int, deadline: float, *, pin_memory: bool = False
    ) -> torch.Tensor:
        """The whole body as bytes in a buffer of its own."""
        length = response.length
        if length is not None and length > limit:
            raise DamagedDataError(f"the answer announces {length:,} bytes, expected at most {limit:,}")
        size = limit + 1 if length is None else length
        memory = (
            torch.empty(size, dtype=torch.uint8, pin_memory=True) if pin_memory else self._source.buffers.lease(size)
        )
        view = memory.numpy().data
        filled = 0
        while filled < size:
            num_read = response.readinto(view[filled : filled + READ_BYTES])
            if num_read == 0:
                break
            filled += num_read
            if filled < size and time.monotonic() > deadline:
                raise TimeoutError(f"received {filled:,} bytes before the deadline")
        if length is None and filled > limit:
            raise DamagedDataError(f"the answer is longer than the {limit:,} bytes expected")
        if length is not None and filled < length:
            raise TemporaryError(f"the connection was cut after {filled:,} of {length:,} bytes")
        if filled == size and not response.isclosed():
            response.read()
        return memory[:filled]


def _parse_url(url: str) -> tuple[str, Callable[[float], http.client.HTTPConnection]]:
    """The path of a run's URL, and what makes a connection to its server with a time-out in seconds."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as error:
        raise InvalidInputError(f"source {url!r} is not a URL: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError("source is a URL with credentials in it; pass them as token=...")
    segments = parts.path.split("/")
    named = len(segments) >= 4 and segments[-3:-1] == ["v1", "runs"] and segments[-1] != ""
    if not host or not named or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        raise InvalidInputError(f"source {url!r} is not the URL of a run; expected http(s)://host:port/v1/runs/NAME")
    if " " in url:
        raise InvalidInputError(f"source {url!r} holds a space; expected http(s)://host:port/v1/runs/NAME")
    if parts.scheme.lower() == "https":
        context = ssl.create_default_context()
        return parts.path, lambda seconds: http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
    return parts.path, lambda seconds: http.client.HTTPConnection(host, port, timeout=seconds)


def _checked_token(token: str) -> str:
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInputError("token must be a text of printable ASCII characters without spaces")
    return token
