"""Server settings: where to listen, and how much to do at the same time. None of them changes a byte that is served.

They are defined here once; the command line and the environment variables `TST_SERVE_*` fill them. All limits are per
worker process. Building a batch is mostly copying memory, so two builders keep a core busy while another batch is on
its way to the socket, and more builders only hold more memory. A batch of 1,024 windows of 4,097 uint16 tokens is
8.4 MB, so the 64 requests that a worker admits by default hold half a gigabyte at most.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tst_data.configuration import Frozen

__all__ = ["LogLevel", "ServerSettings"]

LogLevel = Literal["debug", "info", "warning", "error"]


class ServerSettings(Frozen):
    """Everything that a worker process is told. The descriptions are the help texts of `tst-serve`."""

    sources: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Run files, or folders that hold run files."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on; 0.0.0.0 listens on all addresses of this machine."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Worker processes that share the port."""
    builders: Annotated[int, Field(ge=1, le=64)] = 2
    """Batches that one worker builds at the same time."""
    max_requests: Annotated[int, Field(ge=1)] = 64
    """Batch requests that one worker holds (waiting, building or sending); the next ones get 503."""
    grace_seconds: Annotated[int, Field(ge=0)] = 10
    """Time that requests in progress get to finish when the server stops."""
    keep_alive_seconds: Annotated[int, Field(ge=1)] = 75
    """Time after which an idle connection is closed."""
    stalled_seconds: Annotated[int, Field(ge=1)] = 120
    """Time after which a client that reads nothing is disconnected."""
    scrub_per_hour: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 0.01
    """Share of all data that is read again in an hour, to find damage; 0 turns this off."""
    log_level: LogLevel = "info"
    """Least serious level to log; debug logs every request."""
