"""The outermost layer: every request is counted, timed and logged, and every exception becomes a problem document.

It is plain ASGI, because `BaseHTTPMiddleware` copies every body through a queue. A HEAD request is handled as GET, and
the HTTP layer drops the body, so the two can never differ.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem_of
from service.logs import logger
from service.metrics import Metrics
from service.registry import Registry

__all__ = ["InstrumentationMiddleware"]


class InstrumentationMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, registry: Registry) -> None:
        self.app = app
        self.metrics = metrics
        self.registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET", "bodiless": True}
        status = 0
        start = time.perf_counter()

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, observed_send)
        except asyncio.CancelledError:
            logger().warning("cut off by the end of the grace period", method=method, path=scope["path"])
        except Exception as error:
            logger().error("unexpected error", method=method, path=scope["path"], exc_info=True)
            if status:  # a part of the response is sent already: only the end of the connection can tell the client
                raise
            await problem_of(scope, error)(scope, receive, observed_send)
        finally:
            self.metrics.in_flight.dec()
            self._record(method, scope, status, time.perf_counter() - start)

    def _record(self, method: str, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unrouted")
        name: Any = scope.get("path_params", {}).get("run", "")
        run = name if name in self.registry else ""
        with self.metrics.counting():
            self.metrics.requests.labels(route, str(status), run).inc()
            self.metrics.request_seconds.labels(route).observe(seconds)
        level = "debug" if status < 400 else "warning" if status < 500 or status == 503 else "error"
        why = {"detail": scope["detail"]} if status >= 500 and "detail" in scope else {}
        getattr(logger(), level)(
            "request", method=method, path=scope["path"], status=status, milliseconds=round(seconds * 1000, 2), **why
        )
