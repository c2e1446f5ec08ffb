"""The paths of the API. Each route finds its run by name and leaves the work to `responses` and the registry.

The docstring of a route is its description in the OpenAPI document, from which the reference page is made.
"""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI
from starlette.responses import Response

from service.api.admission import Admission
from service.api.parameters import BatchParameters, RunName, SequenceParameters, Step, StrictQuery
from service.api.problems import NotReadyError
from service.api.responses import AdmittedJSONResponse, BatchResponse
from service.metrics import CONTENT_TYPE, Metrics
from service.registry import Registry
from tst_data.configuration import Frozen
from tst_data.contract.description import RunDescription
from tst_data.errors import TSTError
from tst_data.inspection.preview import DocumentUse, Preview

__all__ = ["add_routes"]


class RunSummary(Frozen):
    """What the list of runs says about one run."""

    name: str
    """Name of the run, part of its paths."""
    fingerprint: str
    """SHA-256 of what determines every batch (64 hex digits). Two runs with one fingerprint have the same batches."""
    total_steps: int
    """Optimizer steps of all phases."""
    total_tokens: int
    """Raw tokens that all steps read as input."""


class RunList(Frozen):
    """All runs of a server."""

    runs: list[RunSummary]
    """The runs in the order of their files."""


class SequenceDocuments(Frozen):
    """The documents that one sequence of a step reads from."""

    documents: list[DocumentUse]
    """The documents in the order of the token stream."""


class Status(Frozen):
    """The state of a server that can serve."""

    status: str
    """`alive` or `ready`."""


def add_routes(app: FastAPI, registry: Registry, admission: Admission, metrics: Metrics) -> None:
    """Add every path except the page."""
    _add_runs(app, registry)
    _add_batches(app, registry, admission, metrics)
    _add_operations(app, registry, admission, metrics)


def _add_runs(app: FastAPI, registry: Registry) -> None:
    @app.get("/v1/runs", tags=["runs"], summary="List the runs", response_description="The runs.")
    async def runs() -> RunList:
        """All runs of this server, in the order of their files."""
        keys = set(RunSummary.model_fields)
        return RunList(runs=[RunSummary(**run.description.model_dump(include=keys)) for run in registry])

    @app.get("/v1/runs/{run}", tags=["runs"], summary="Describe a run", response_description="The description.")
    async def run(run: RunName) -> RunDescription:
        """One run: its specification with every default filled in, its fingerprint, phases and totals, and how its
        tokens are to be read."""
        return registry.get(run).description


def _add_batches(app: FastAPI, registry: Registry, admission: Admission, metrics: Metrics) -> None:
    @app.get(
        "/v1/runs/{run}/batches/{step}",
        tags=["batches"],
        summary="Get a batch",
        response_class=Response,
        dependencies=[StrictQuery],
    )
    async def batch(run: RunName, step: Step, query: BatchParameters) -> Response:
        """The windows of one rank in one step, as an Arrow IPC stream with one record batch.

        Its columns are `window`, `dataset` and `first_token`; the metadata of its schema says which batch it is. The
        same run, step, rank and world size give the same windows from every server at any time, so a response can be
        kept by any cache, and asked for again after an interruption."""
        served = registry.get(run)
        served.description.phase(step)
        return BatchResponse(served, step, query.rank, query.world_size, admission=admission, metrics=metrics)

    @app.get(
        "/v1/runs/{run}/batches/{step}/documents",
        tags=["batches"],
        summary="List the documents of a sequence",
        response_description="The documents.",
        response_model=SequenceDocuments,
        dependencies=[StrictQuery],
    )
    async def documents(run: RunName, step: Step, query: SequenceParameters) -> Response:
        """The documents that one sequence of a step reads from, and which of its bags hold tokens of each."""
        served = registry.get(run)
        return AdmittedJSONResponse(partial(served.documents, step, query.sequence), admission=admission)

    @app.get(
        "/v1/runs/{run}/batches/{step}/preview",
        tags=["batches"],
        summary="Show a sequence as text",
        response_description="The sequence as text.",
        response_model=Preview,
        dependencies=[StrictQuery],
    )
    async def preview(run: RunName, step: Step, query: SequenceParameters) -> Response:
        """One sequence of a step as text: what each latent position reads and predicts, and the documents."""
        served = registry.get(run)
        return AdmittedJSONResponse(partial(served.preview, step, query.sequence), admission=admission)


def _add_operations(app: FastAPI, registry: Registry, admission: Admission, metrics: Metrics) -> None:
    @app.get(
        "/healthz",
        tags=["operations"],
        summary="Check that the process runs",
        response_description="The process runs.",
    )
    async def healthz() -> Status:
        """For a liveness probe. Reads no data."""
        return Status(status="alive")

    @app.get(
        "/readyz",
        tags=["operations"],
        summary="Check that every run can be served",
        response_description="Every run can be served.",
    )
    async def readyz() -> Status:
        """For a readiness probe: reads and verifies the first window of every run."""
        for served in registry:
            try:
                await admission.build(served.check_readable)
            except TSTError as error:
                raise NotReadyError(f"run '{served.name}': cannot be read ({error})") from error
        return Status(status="ready")

    @app.get(
        "/metrics",
        tags=["operations"],
        summary="Read the metrics",
        response_class=Response,
        response_description="Prometheus text format.",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def exposition() -> Response:
        """Counters and histograms for Prometheus, over all worker processes of this server."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)
