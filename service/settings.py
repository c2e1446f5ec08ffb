"""Server settings: where to listen, and how much to do at once. Nothing here changes a byte that is served.

Defined once; the command line and its environment variables (`TST_SERVE_*`) fill it. All limits are per worker
process. Building a batch is mostly memory copies, so two builders keep a core busy while another batch is on its
way to the socket, and more of them only hold more memory: a batch of 1,024 windows of 4,097 uint16 tokens is 8.4
MB, so the default of 64 admitted requests holds half a gigabyte at worst.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from tst_data.configuration import Frozen

__all__ = ["LogLevel", "ServerSettings"]

LogLevel = Literal["debug", "info", "warning", "error"]


class ServerSettings(Frozen):
    """Everything a worker process is told."""

    sources: tuple[Path, ...] = Field(min_length=1, description="run files, or folders that hold run files")
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    workers: int = Field(1, ge=1, le=256, description="worker processes that share the socket")
    builders: int = Field(2, ge=1, le=64, description="batches that one worker builds at the same time")
    max_requests: int = Field(
        64, ge=1, description="batch requests that one worker holds (waiting, building, sending); more get 503"
    )
    grace_seconds: int = Field(10, ge=0, description="how long requests in flight may take when stopping")
    keep_alive_seconds: int = Field(75, ge=1, description="how long an idle connection stays open")
    stalled_seconds: int = Field(120, ge=1, description="a client that takes no byte for so long is cut off")
    log_level: LogLevel = Field("info", description="debug logs every request")
