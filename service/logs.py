"""Logs: structured lines on stderr, as JSON unless stderr is a terminal.

Requests that fail are logged at level warning or error, the others at debug: with hundreds of batches a second, a line
for each costs more than it tells, and `/metrics` counts them all. uvicorn's own messages get the same form.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

__all__ = ["configure_logs", "logger"]


def logger() -> Any:
    """The server's logger."""
    return structlog.get_logger("tst-serve")


def configure_logs(level: str) -> None:
    """Set up the logs of this process: ours from `level`, uvicorn's from warning."""
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        renderer: list[Any] = [structlog.dev.ConsoleRenderer()]
    else:
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    uvicorn_logger = logging.getLogger("uvicorn")
    uvicorn_logger.handlers = [handler]
    uvicorn_logger.propagate = False
    uvicorn_logger.setLevel(logging.WARNING)
