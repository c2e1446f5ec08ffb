"""What clients send is shown in the logs and never obeyed. python -m pytest tests/server/test_logs.py"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from service.logs import configure_logs, logger

UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
COLORS = re.compile("\x1b\\[[0-9;]*m")
HOSTILE = "a\x1b]0;title\x07\x9b2J\u202eb\n2026-01-01 [error] c\x7f\udce9"
SHOWN = r"a\x1b]0;title\x07\u009b2J\u202eb\n2026-01-01 [error] c\x7f\xe9"


class Stderr(io.StringIO):
    """What stands for stderr; `terminal` says what it seems to be."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(params=[True, False], ids=["terminal", "json"])
def stderr(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stderr]:
    """The logs are set up for this stream."""
    stream = Stderr(request.param)
    monkeypatch.setattr(sys, "stderr", stream)
    uvicorn = logging.getLogger("uvicorn")
    before = uvicorn.handlers, uvicorn.propagate, uvicorn.level
    configure_logs("info")
    yield stream
    uvicorn.handlers, uvicorn.propagate, uvicorn.level = before
    structlog.reset_defaults()


def check(stderr: Stderr, *, lines: int = 1) -> str:
    text = COLORS.sub("", stderr.getvalue()) if stderr.terminal else stderr.getvalue()
    assert not UNSAFE.search(text), text
    assert text.count("\n") == lines
    return text


def test_values_and_messages_are_made_visible(stderr: Stderr) -> None:
    logger().warning("request", method="GET", path=HOSTILE, status=404)
    text = check(stderr)
    assert SHOWN in (text.replace("\\\\", "\\") if stderr.terminal else json.loads(text)["path"])


def test_long_values_are_shortened(stderr: Stderr) -> None:
    logger().warning("request", path="/" + "x" * 1_000_000)
    assert 1900 < len(check(stderr)) < 2300


def test_a_stack_trace_keeps_its_lines(stderr: Stderr) -> None:
    def fail(value: Any) -> None:
        raise KeyError(value) from ValueError(HOSTILE)

    try:
        fail("x")
    except KeyError:
        logger().error("unexpected error", path="/", exc_info=True)
    text = check(stderr, lines=stderr.getvalue().count("\n"))
    trace = text if stderr.terminal else json.loads(text)["exception"]
    assert SHOWN.replace("\\n", "\n") in trace
    assert trace.count("\n") > 5
    assert ("\n" in text.strip()) == stderr.terminal


def test_messages_of_uvicorn_too(stderr: Stderr) -> None:
    text_without_bytes = HOSTILE.removesuffix("\udce9")  # pytest keeps the message, and cannot send half a character
    logging.getLogger("uvicorn.error").warning("Invalid request: %s", text_without_bytes)
    text = check(stderr)
    assert SHOWN.removesuffix(r"\xe9") in (text if stderr.terminal else json.loads(text)["event"])
