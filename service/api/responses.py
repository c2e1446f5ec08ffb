"""The answer to a batch request: gathered, hashed and encoded in a thread, sent, then forgotten.

The tokens go from the maps into one buffer and from there to the socket. The last, empty message is what makes the
server wait until the kernel has taken the body: only then is the request's place in the gate free again, so memory
stays bounded whatever the clients do. An answer never changes, so any cache may keep it; the strong ETag is a hash
of the body.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from service.api.admission import Gate
from service.metrics import Metrics
from service.registry import ServedRun
from tst_data.contract import wire

__all__ = ["BatchAnswer", "GatedJSON", "matches"]

CACHE_CONTROL = "public, max-age=86400, immutable"


def matches(etag: str, if_none_match: str | None) -> bool:
    """Whether an If-None-Match header names this ETag (weak comparison, RFC 9110, section 13.1.2)."""
    if if_none_match is None:
        return False
    named = [value.strip().removeprefix("W/") for value in if_none_match.split(",")]
    return etag in named or named == ["*"]


class BatchAnswer(Response):
    """One batch on the wire."""

    def __init__(self, run: ServedRun, step: int, rank: int, world_size: int, *, gate: Gate, metrics: Metrics) -> None:
        super().__init__()
        self.run = run
        self.gate = gate
        self.metrics = metrics
        self.step = step
        self.build = partial(_build, run, step, rank, world_size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.gate.admitted():
            parts, etag, num_tokens, seconds = await self.gate.run(self.build)
            num_bytes = sum(len(part) for part in parts)
            self.metrics.build_seconds.labels(self.run.name).observe(seconds)
            headers = [(b"etag", etag.encode()), (b"cache-control", CACHE_CONTROL.encode())]
            if matches(etag, Headers(scope=scope).get("if-none-match")):
                await send({"type": "http.response.start", "status": 304, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
            headers += [
                (b"content-type", wire.CONTENT_TYPE.encode()),
                (b"content-length", str(num_bytes).encode()),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if "bodiless" in scope:
                await send({"type": "http.response.body", "body": b""})
                return
            for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            name = self.run.name
            self.metrics.batches.labels(name).inc()
            self.metrics.tokens.labels(name).inc(num_tokens)
            self.metrics.bytes.labels(name).inc(num_bytes)
            self.metrics.last_step.labels(name).set(self.step)


def _build(run: ServedRun, step: int, rank: int, world_size: int) -> tuple[list[memoryview], str, int, float]:
    start = time.perf_counter()
    batch = run.plan.read_batch(step, rank, world_size)
    parts = wire.encode_parts(batch)
    return parts, wire.etag(batch, parts), batch.windows.size, time.perf_counter() - start


class GatedJSON(Response):
    """JSON whose making reads the data: behind the same gate as a batch."""

    def __init__(self, work: Callable[[], Any], *, gate: Gate) -> None:
        super().__init__()
        self.work = work
        self.gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.gate.admitted():
            answer = JSONResponse(await self.gate.run(self.work))
            await answer(scope, receive, send)
