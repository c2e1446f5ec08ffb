"""One kept-alive connection to a batch server: a request, and the body of its response.

Plain `http.client`: the body is read straight into a buffer of its size (page-locked where there is a GPU) and never
copied again. On loopback with 8 MB bodies that moves 2.6 GB/s, urllib3 1.6 and httpx 0.6. Proxy settings of the
environment and redirects are not followed. Nothing is tried again here, except on an idle connection that the server
has closed.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Mapping

import torch

from trainer_client.stream.http_responses import (
    RefusedError,
    TemporaryError,
    check_content_type,
    describe_error,
    failure,
)
from trainer_client.stream.receive_buffers import ReceiveBuffers
from tst_data.errors import DamagedDataError, InvalidInputError

__all__ = ["MAX_TEXT_BYTES", "HttpConnection"]

READ_BYTES = 4 << 20
"""A body is read in pieces of this size. After each piece the deadline is checked."""

MAX_TEXT_BYTES = 16 << 20
"""A description or a problem is shorter than this; what is longer is neither."""


class HttpConnection:
    """Sends one GET after another on one connection. One thread uses it; only `abort` may be called from another."""

    def __init__(
        self,
        connection: http.client.HTTPConnection,
        headers: Mapping[str, str],
        buffers: ReceiveBuffers,
        try_seconds: float,
    ) -> None:
        self._connection = connection
        self._headers = headers
        self._buffers = buffers
        self._try_seconds = try_seconds
        self._used_before = False
        """Whether the open connection has carried a whole response."""

    def get(
        self,
        path: str,
        content_type: str,
        *,
        limit_bytes: int,
        deadline: float,
        pin_memory: bool = False,
        past_caches: bool = False,
    ) -> torch.Tensor:
        """The body of a 200 response as a uint8 tensor in its own memory. `deadline` is a time of `time.monotonic`.

        Raises TemporaryError, RefusedError or DamagedDataError. The connection stays open only after a response that
        was read to its end.
        """
        complete = False
        seconds = max(0.05, min(self._try_seconds, deadline - time.monotonic()))
        self._connection.timeout = seconds
        if self._connection.sock is not None:
            self._connection.sock.settimeout(seconds)
        headers = {**self._headers, "Accept": content_type}
        if past_caches:
            headers["Cache-Control"] = "no-cache"
        try:
            response = self._request(path, headers)
            if response.status != http.client.OK:
                raise failure(response, self._body(response, MAX_TEXT_BYTES, deadline))
            check_content_type(response, content_type)
            body = self._body(response, limit_bytes, deadline, pin_memory=pin_memory)
            complete = response.isclosed()
            return body
        except ssl.SSLCertVerificationError as error:
            raise RefusedError(
                InvalidInputError, f"the server's certificate is not trusted: {error.verify_message}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise TemporaryError(describe_error(error)) from None
        finally:
            self._used_before = complete
            if not complete:
                self._connection.close()

    def abort(self) -> None:
        """Cut off a request that another thread is waiting for."""
        opened = self._connection.sock
        if opened is not None:
            with contextlib.suppress(OSError):  # it is no longer connected
                opened.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._used_before = False
        self._connection.close()

    def _request(self, path: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        try:
            self._connection.request("GET", path, headers=headers)
            return self._connection.getresponse()
        except (ConnectionError, http.client.BadStatusLine):
            # A server may close an idle connection at any time. That is not a failure; a new one that fails is.
            if not self._used_before:
                raise
        self._connection.close()
        self._connection.request("GET", path, headers=headers)
        return self._connection.getresponse()

    def _body(
        self, response: http.client.HTTPResponse, limit_bytes: int, deadline: float, *, pin_memory: bool = False
    ) -> torch.Tensor:
        """The whole body, whether the server gave its length or not."""
        length = response.length
        if length is not None and length > limit_bytes:
            raise DamagedDataError(f"the response announces {length:,} bytes, expected at most {limit_bytes:,}")
        size = limit_bytes + 1 if length is None else length
        memory = torch.empty(size, dtype=torch.uint8, pin_memory=True) if pin_memory else self._buffers.lease(size)
        view = memory.numpy().data
        filled = 0
        while filled < size:
            num_read = response.readinto(view[filled : filled + READ_BYTES])
            if num_read == 0:
                break
            filled += num_read
            if filled < size and time.monotonic() > deadline:
                raise TimeoutError(f"received {filled:,} bytes before the deadline")
        if length is None and filled > limit_bytes:
            raise DamagedDataError(f"the response has more than the {limit_bytes:,} bytes that were expected")
        if length is not None and filled < length:
            raise TemporaryError(f"the connection was cut after {filled:,} of {length:,} bytes")
        if filled == size and not response.isclosed():
            response.read()  # the end of the last chunk, so that the connection can be used again
        return memory[:filled]
