"""The listening socket: bound once by the supervisor, shared by all worker processes.

It listens before any worker runs, so a client that comes while a worker starts or is replaced waits in the backlog
instead of being refused.
"""

from __future__ import annotations

import errno
import socket
import time

from tst_data.errors import InvalidInputError

__all__ = ["listen", "url_of"]

BACKLOG = 1024
PATIENCE_SECONDS = 2.0
"""How long to wait for a port: workers of a server that was just killed take a moment to end."""


def listen(host: str, port: int, *, stalled_seconds: int) -> socket.socket:
    """A listening socket; InvalidInputError where the address cannot be had.

    A connection whose peer takes no byte for `stalled_seconds` is dropped by the kernel (TCP_USER_TIMEOUT, which
    accepted connections inherit), so a client that stopped reading cannot hold a batch in memory for ever.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise InvalidInputError(f"cannot listen on host {host!r}: {error}; give an address of this machine") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stalled_seconds * 1000)
        _bind(listener, address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            detail = "the port is in use; stop what listens there or choose another --port (0 picks a free one)"
        else:
            detail = error.strerror or str(error)
        raise InvalidInputError(f"cannot listen on {host}:{port}: {detail}") from None
    return listener


def _bind(listener: socket.socket, address: object) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            listener.bind(address)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def url_of(listener: socket.socket) -> str:
    """The address to give to clients on this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
