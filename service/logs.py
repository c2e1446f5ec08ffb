"""Logs: structured lines on stderr, as JSON unless stderr is a terminal.

Requests that fail are logged at level warning or error, the others at debug: with hundreds of batches a second, a line
for each costs more than it tells, and `/metrics` counts them all. uvicorn's own messages get the same form.

A path or a name in a line is what a client sent: its control characters are shown as escapes, and it is shortened.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from tst_data.visible_text import one_line, visible

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
    form: Any = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        form = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: list[Any] = [structlog.processors.format_exc_info, _make_visible, form]
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


def _make_visible(_: Any, method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Every string as one line that a terminal shows and does not obey; a stack trace keeps its lines."""
    for name, value in fields.items():
        if name == "exception":
            fields[name] = "\n".join(map(visible, str(value).split("\n")))
        elif isinstance(value, str):
            fields[name] = one_line(value)
    return fields
