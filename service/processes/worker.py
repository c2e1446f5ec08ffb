"""One worker process: the application under uvicorn, on the socket that all workers share.

It reports to the supervisor: that it serves, or in one line why it cannot. It ends when the supervisor ends: a thread
waits for the end of the parent process, which the kernel reports even after `kill -9`, and then ends this process at
once, so that the port is free for the next server.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection

import uvicorn

from service.api.app import create_app
from service.api.http_protocol import ProblemProtocol
from service.logs import configure_logs
from service.metrics import FOLDER_VARIABLE
from service.processes.malloc import keep_freed_memory
from service.settings import ServerSettings
from tst_data.errors import TSTError

__all__ = ["serve"]

SWITCH_SECONDS = 0.0005
"""How long a builder may hold the interpreter's lock while the event loop waits. Python's default of 5 ms is as long as
building a whole batch."""


class _ReportingServer(uvicorn.Server):
    """uvicorn, with a report when it accepts connections."""

    def __init__(self, config: uvicorn.Config, report: Connection) -> None:
        super().__init__(config)
        self._report = report

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._report.send("")


def serve(settings: ServerSettings, listener: socket.socket, report: Connection, number: int) -> None:
    """Serve until SIGTERM, as worker `number` of the server.

    `report` receives an empty string when the worker is ready, otherwise what went wrong. SIGINT is ignored, because
    Ctrl-C reaches every process of the terminal: the supervisor decides when a worker stops.
    """
    threading.Thread(target=_leave_with_parent, daemon=True, name="parent-watch").start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    configure_logs(settings.log_level)
    sys.setswitchinterval(SWITCH_SECONDS)
    keep_freed_memory()
    try:
        app = create_app(settings, worker=number)
    except (TSTError, OSError) as error:
        report.send(str(error) or type(error).__name__)
        return
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=ProblemProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=1024,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.grace_seconds,
    )
    _ReportingServer(config, report).run(sockets=[listener])


def _leave_with_parent() -> None:
    """Wait for the end of the supervisor, remove the metrics folder in its place, and end this process."""
    parent = parent_process()
    assert parent is not None, "a worker is started by a supervisor"
    connection.wait([parent.sentinel])
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
