"""The response to a batch request: gathered, hashed and encoded in a builder thread, sent, then forgotten.

The tokens go from the memory maps into one buffer, and from there to the socket. The last, empty message makes the
server wait until the kernel has taken the whole body. Only then is the request's place free again, so memory stays
bounded even when clients read slowly. A response never changes, so any cache may keep it; its strong ETag is a hash of
the body.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from service.api.admission import Admission
from service.metrics import Metrics
from service.registry import ServedRun
from tst_data.contract import wire

__all__ = ["AdmittedJSONResponse", "BatchResponse", "matches"]

CACHE_CONTROL = "public, max-age=86400, immutable"


def matches(etag: str, if_none_match: str | None) -> bool:
    """Whether an If-None-Match header names this ETag (weak comparison, RFC 9110, section 13.1.2)."""
    if if_none_match is None:
        return False
    named = [value.strip().removeprefix("W/") for value in if_none_match.split(",")]
    return etag in named or named == ["*"]


@dataclass(frozen=True)
class _Body:
    """A batch that is ready to be sent: the parts of its Arrow stream, and what the metrics count."""

    parts: list[memoryview]
    etag: str
    num_tokens: int
    num_bytes: int
    seconds: float


def _build(run: ServedRun, step: int, rank: int, world_size: int) -> _Body:
    start = time.perf_counter()
    batch = run.plan.read_batch(step, rank, world_size)
    parts = wire.encode_parts(batch)
    return _Body(
        parts=parts,
        etag=wire.etag(batch, parts),
        num_tokens=batch.windows.size,
        num_bytes=sum(len(part) for part in parts),
        seconds=time.perf_counter() - start,
    )


class BatchResponse(Response):
    """One rank's share of one step as an Arrow stream, or 304 where the client has it already."""

    def __init__(
        self, run: ServedRun, step: int, rank: int, world_size: int, *, admission: Admission, metrics: Metrics
    ) -> None:
        super().__init__()
        self.run = run
        self.step = step
        self.admission = admission
        self.metrics = metrics
        self.build = partial(_build, run, step, rank, world_size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.admission.place():
            body = await self.admission.build(self.build)
            with self.metrics.counting():
                self.metrics.build_seconds.labels(self.run.name).observe(body.seconds)
            headers = [(b"etag", body.etag.encode()), (b"cache-control", CACHE_CONTROL.encode())]
            if matches(body.etag, Headers(scope=scope).get("if-none-match")):
                await send({"type": "http.response.start", "status": 304, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
            headers += [
                (b"content-type", wire.CONTENT_TYPE.encode()),
                (b"content-length", str(body.num_bytes).encode()),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if "bodiless" not in scope:
                for part in body.parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            if "bodiless" not in scope:
                self._count(body)

    def _count(self, body: _Body) -> None:
        name = self.run.name
        with self.metrics.counting():
            self.metrics.batches.labels(name).inc()
            self.metrics.tokens.labels(name).inc(body.num_tokens)
            self.metrics.bytes.labels(name).inc(body.num_bytes)
            self.metrics.last_step.labels(name).set(self.step)


class AdmittedJSONResponse(Response):
    """JSON that is made by reading data: it needs a place and a builder thread, as a batch does."""

    def __init__(self, work: Callable[[], Any], *, admission: Admission) -> None:
        super().__init__()
        self.work = work
        self.admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.admission.place():
            response = JSONResponse(await self.admission.build(self.work))
            await response(scope, receive, send)
