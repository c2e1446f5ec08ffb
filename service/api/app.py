"""The application: the parts of the server put together.

A batch is a pure function of (run, step, rank, world size), so no part keeps anything between two requests except
counters: every response can come from any replica, be kept by any cache, and be asked for again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api import openapi
from service.api.admission import Admission
from service.api.instrumentation import InstrumentationMiddleware
from service.api.problems import problem_of
from service.api.routes import add_routes
from service.metrics import Metrics
from service.page import page
from service.registry import Registry
from service.scrub import Scrub
from service.settings import ServerSettings
from tst_data.errors import DamagedDataError, TSTError

__all__ = ["create_app"]


def create_app(settings: ServerSettings, *, worker: int = 0) -> FastAPI:
    """The application that serves the runs of these settings, in worker process `worker`.

    Opens them, and raises what opening them raises.
    """
    registry = Registry.open(settings.sources)
    metrics = Metrics(len(registry))
    admission = Admission(builders=settings.builders, max_requests=settings.max_requests)

    scrub = Scrub(registry, metrics, share_per_hour=settings.scrub_per_hour, worker=worker, workers=settings.workers)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        scrub.start()
        yield
        scrub.close()
        admission.close()

    app = FastAPI(
        title=openapi.TITLE,
        version="1",
        summary=openapi.SUMMARY,
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_middleware(InstrumentationMiddleware, metrics=metrics, registry=registry)
    _add_problems(app, metrics)
    add_routes(app, registry, admission, metrics)
    page.add(app)
    openapi.complete(app)
    return app


def _add_problems(app: FastAPI, metrics: Metrics) -> None:
    """Make every exception of a route a problem document."""

    async def respond(request: Request, error: Exception) -> Response:
        request.scope["detail"] = str(error)
        if isinstance(error, DamagedDataError):
            with metrics.counting():
                metrics.damaged.labels(request.path_params.get("run", "")).inc()
        return problem_of(request.scope, error)

    for kind in (TSTError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, respond)
