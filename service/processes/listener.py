"""The listening socket: bound once, before any worker runs, and shared by all worker processes.

A client that connects while a worker starts or is replaced waits in the backlog of the socket and is not refused.
"""

from __future__ import annotations

import errno
import socket
import time

from tst_data.errors import InvalidInputError

__all__ = ["listen", "url_of"]

BACKLOG = 1024
PATIENCE_SECONDS = 2.0
"""How long to try to bind a port that is in use: the workers of a server that was just killed take a moment to end."""


def listen(host: str, port: int, *, stalled_seconds: int) -> socket.socket:
    """A listening socket. Raises InvalidInputError when it cannot be bound to this address.

    When a client reads nothing for `stalled_seconds`, the kernel closes its connection (TCP_USER_TIMEOUT, which
    accepted connections inherit). So a client that has stopped reading cannot hold a batch in memory forever.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise InvalidInputError(
            f"--host {host!r}: cannot be resolved ({error}); give an address of this machine"
        ) from None
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
            problem = "the port is in use; stop the program that listens there, or give another --port (0: a free one)"
        else:
            problem = f"cannot listen there ({error.strerror or error}); give an address of this machine"
        raise InvalidInputError(f"{host}:{port}: {problem}") from None
    return listener


def _bind(listener: socket.socket, address: object) -> None:
    """Bind the socket, waiting a little for an address in use to become free."""
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
    """The URL of the server for clients on this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
