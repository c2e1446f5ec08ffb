"""What a request may say: step, rank, world size and sequence, read strictly.

A misspelt or repeated parameter is refused rather than read as its default: two trainers that both got rank 0 would
train on the same windows and nothing would show it. Numbers are decimal digits and nothing else (pydantic alone
would take '1.0' and ' 1 '); one too long to be a step is past the end of every run.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic import BeforeValidator, Field

from tst_data.configuration import Frozen
from tst_data.errors import InvalidInputError, NotFoundError

__all__ = ["BatchParameters", "RunName", "SequenceParameters", "Step", "StrictQuery"]

MAX_DIGITS = 18
"""More than any step, rank or row has."""


def _digits(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"[0-9]+", value, re.ASCII):
        raise ValueError("expected a whole number from 0 up, in decimal digits")
    significant = value.lstrip("0") or "0"
    if len(significant) > MAX_DIGITS:
        raise ValueError(f"expected at most {MAX_DIGITS} digits")
    return int(significant)


def _place(name: str, value: Any) -> Any:
    """Digits that count something of the run: too many of them are well written, but not there."""
    if isinstance(value, str) and re.fullmatch(rf"0*[1-9][0-9]{{{MAX_DIGITS},}}", value, re.ASCII):
        number = value.lstrip("0")
        raise NotFoundError(f"{name} {number[:MAX_DIGITS]}... ({len(number)} digits) is past the end of every run")
    return _digits(value)


Index = Annotated[int, Field(ge=0), BeforeValidator(_digits)]
RunName = Annotated[str, Path(description="name of a served run")]
Step = Annotated[
    int,
    Field(ge=0),
    BeforeValidator(partial(_place, "step")),
    Path(description="optimizer step, counted from 0 through all phases"),
]


class BatchQuery(Frozen):
    """Which share of the step: rank `rank` of `world_size` gets rows `rank * B / world_size` and following."""

    rank: Index = Field(0, description="this rank, from 0")
    world_size: Annotated[int, Field(ge=1), BeforeValidator(_digits)] = Field(
        1, description="ranks that share the step; divides its batch size"
    )


class SequenceQuery(Frozen):
    """Which sequence of the step, over all ranks."""

    sequence: Annotated[int, Field(ge=0), BeforeValidator(partial(_place, "sequence"))] = Field(
        0, description="row of the step, from 0"
    )


async def refuse_repeated(request: Request) -> None:
    """Refuse a query parameter that stands there twice. (async: FastAPI would run it in a thread otherwise.)"""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInputError(f"query parameter {name[:64]!r} is given {names.count(name)} times; give it once")


StrictQuery = Depends(refuse_repeated)
BatchParameters = Annotated[BatchQuery, Query()]
SequenceParameters = Annotated[SequenceQuery, Query()]
