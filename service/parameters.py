"""What a request may say: step, rank, world size and sequence, read strictly.

A misspelt or repeated parameter is refused rather than read as its default: two trainers that both got rank 0 would
train on the same windows and nothing would show it. Numbers are decimal digits and nothing else (pydantic alone
would take '1.0' and ' 1 '); one too long to be a step is simply past the end.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tst_data.errors import InvalidInputError

__all__ = ["BatchParameters", "RunName", "SequenceParameters", "Step", "StrictQuery"]

BEYOND = 10**18
"""Stands for every number of more than 18 digits: larger than any step, rank or row."""


def _digits(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"[0-9]+", value, re.ASCII):
        raise ValueError("expected a whole number from 0 up, in decimal digits")
    significant = value.lstrip("0") or "0"
    return int(significant) if len(significant) <= 18 else BEYOND


Index = Annotated[int, Field(ge=0), BeforeValidator(_digits)]
RunName = Annotated[str, Path(description="name of a served run")]
Step = Annotated[Index, Path(description="optimizer step, counted from 0 through all phases")]


class BatchQuery(BaseModel):
    """Which share of the step: rank `rank` of `world_size` gets rows `rank * B / world_size` and following."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Index = Field(0, description="this rank, from 0")
    world_size: Annotated[int, Field(ge=1), BeforeValidator(_digits)] = Field(
        1, description="ranks that share the step; divides its batch size"
    )


class SequenceQuery(BaseModel):
    """Which sequence of the step, over all ranks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: Index = Field(0, description="row of the step, from 0")


async def refuse_repeated(request: Request) -> None:
    """Refuse a query parameter that stands there twice. (async: FastAPI would run it in a thread otherwise.)"""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInputError(f"query parameter {name[:64]!r} is given {names.count(name)} times; give it once")


StrictQuery = Depends(refuse_repeated)
BatchParameters = Annotated[BatchQuery, Query()]
SequenceParameters = Annotated[SequenceQuery, Query()]
