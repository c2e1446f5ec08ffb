"""The HTTP face: routes, and nothing that they would have to remember between two requests.

A batch is a pure function of (run, step, rank, world size), so every answer can be given by any replica, cached by
any proxy and asked for again. Each route looks its run up by name and leaves the work to `answers`; parameters are
read in `parameters`, errors become problem documents in `problems`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.admission import Gate
from service.api.instrumentation import Observer
from service.api.openapi import describe
from service.api.parameters import BatchParameters, RunName, SequenceParameters, Step, StrictQuery
from service.api.problems import NotReadyError, problem_of
from service.api.responses import BatchAnswer, GatedJSON
from service.metrics import CONTENT_TYPE, Metrics
from service.page import page
from service.registry import Registry
from service.settings import ServerSettings
from tst_data.contract.description import RunDescription
from tst_data.errors import DamagedDataError, TSTError

__all__ = ["create_app"]


def create_app(settings: ServerSettings) -> FastAPI:
    """The application over the runs of these settings, which are opened here; raises what opening them raises."""
    registry = Registry.open(settings.sources)
    metrics = Metrics()
    gate = Gate(builders=settings.builders, max_requests=settings.max_requests)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        gate.close()

    app = FastAPI(
        title="Token-Superposition batch server",
        version="1",
        summary="Hands out the superposed batches of runs.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_middleware(Observer, metrics=metrics, registry=registry)
    _answer_problems(app, metrics)
    _add_batches(app, registry, gate, metrics)
    _add_runs(app, registry)
    _add_operations(app, registry, gate, metrics)
    page.add(app)
    describe(app)
    return app


def _answer_problems(app: FastAPI, metrics: Metrics) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, DamagedDataError):
            metrics.damaged.labels(request.path_params.get("run", "")).inc()
        return problem_of(request.scope, error)

    for kind in (TSTError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)


def _add_batches(app: FastAPI, registry: Registry, gate: Gate, metrics: Metrics) -> None:
    @app.get("/v1/runs/{run}/batches/{step}", response_class=Response, dependencies=[StrictQuery], tags=["batches"])
    async def batch(run: RunName, step: Step, query: BatchParameters) -> Response:
        """One rank's share of one step, as an Arrow IPC stream."""
        served = registry.get(run)
        served.description.phase(step)
        return BatchAnswer(served, step, query.rank, query.world_size, gate=gate, metrics=metrics)

    @app.get("/v1/runs/{run}/batches/{step}/documents", dependencies=[StrictQuery], tags=["batches"])
    async def documents(run: RunName, step: Step, query: SequenceParameters) -> Response:
        """The documents that one sequence of a step holds, and which of its bags read from each."""
        served = registry.get(run)
        return GatedJSON(partial(served.documents, step, query.sequence), gate=gate)

    @app.get("/v1/runs/{run}/batches/{step}/preview", dependencies=[StrictQuery], tags=["batches"])
    async def preview(run: RunName, step: Step, query: SequenceParameters) -> Response:
        """One sequence of a step as text, bag by bag, with its documents."""
        served = registry.get(run)
        return GatedJSON(partial(served.preview, step, query.sequence), gate=gate)


def _add_runs(app: FastAPI, registry: Registry) -> None:
    @app.get("/v1/runs", tags=["runs"])
    async def runs() -> dict[str, list[dict[str, Any]]]:
        """All runs, in short."""
        return {
            "runs": [
                run.description.model_dump(include={"name", "fingerprint", "total_steps", "total_tokens"})
                for run in registry
            ]
        }

    @app.get("/v1/runs/{run}", tags=["runs"])
    async def run(run: RunName) -> RunDescription:
        """One run: its specification, fingerprint, phases and totals."""
        return registry.get(run).description


def _add_operations(app: FastAPI, registry: Registry, gate: Gate, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["operations"])
    async def healthz() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["operations"])
    async def readyz() -> dict[str, str]:
        """Whether every run is open and its first window can be read."""
        for served in registry:
            try:
                await gate.run(served.check_readable)
            except TSTError as error:
                raise NotReadyError(f"run {served.name!r} cannot be read: {error}") from error
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, tags=["operations"])
    async def exposition() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)
