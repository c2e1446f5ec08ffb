"""The parameters of a request: run, step, rank, world size and sequence, read strictly.

A misspelled or repeated parameter is refused and never read as its default: two trainers that both got rank 0 would
train on the same windows, and nothing would show it. A number is written in decimal digits and nothing else (pydantic
alone would accept '1.0' and ' 1 '). A step with too many digits is past the end of every run, so it is a 404.
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

WHOLE_NUMBER = re.compile(r"[0-9]+|-0*[1-9][0-9]*")

MAX_DIGITS = 18
"""More digits than any step, rank or row has."""


def _number(value: Any) -> Any:
    """The number that a string of digits means. Other strings stay strings: pydantic refuses them in its words."""
    if not isinstance(value, str) or not WHOLE_NUMBER.fullmatch(value):
        return value
    digits = _significant(value)
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"expected at most {MAX_DIGITS} digits")
    return -int(digits) if value.startswith("-") else int(digits)


def _counted(parameter: str, whole: str, value: Any) -> Any:
    """A number that counts steps or rows. With too many digits it is a number, but there is no such step or row."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]+", value):
        digits = _significant(value)
        if len(digits) > MAX_DIGITS:
            raise NotFoundError(
                f"{parameter}: {digits[:MAX_DIGITS]}... ({len(digits)} digits) is past the end of every {whole}; "
                "give a smaller number"
            )
    return _number(value)


def _significant(value: str) -> str:
    """The digits without sign and leading zeros."""
    return value.lstrip("-0") or "0"


RunName = Annotated[str, Path(description="Name of a run of this server.")]
Step = Annotated[
    int,
    Field(strict=True, ge=0),
    BeforeValidator(partial(_counted, "path parameter 'step'", "run")),
    Path(description="Optimizer step. Steps count from 0 through all phases."),
]


class BatchQuery(Frozen):
    """Which share of a step: rank `r` of `w` gets the rows `r * B / w` to `(r + 1) * B / w` of the step's `B` rows."""

    rank: Annotated[int, Field(strict=True, ge=0), BeforeValidator(_number)] = 0
    """Data-parallel rank, from 0 to `world_size` - 1."""
    world_size: Annotated[int, Field(strict=True, ge=1), BeforeValidator(_number)] = 1
    """Number of ranks that share the step. It must divide the batch size of the step's phase."""


class SequenceQuery(Frozen):
    """Which sequence of a step, over all ranks."""

    sequence: Annotated[
        int, Field(strict=True, ge=0), BeforeValidator(partial(_counted, "query parameter 'sequence'", "batch"))
    ] = 0
    """Row of the step, from 0, over all ranks."""


async def refuse_repeated(request: Request) -> None:
    """Refuse a query parameter that is given more than once. (Async, because FastAPI runs others in a thread.)"""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInputError(f"query parameter {name[:64]!r}: is given {names.count(name)} times; give it once")


StrictQuery = Depends(refuse_repeated)
BatchParameters = Annotated[BatchQuery, Query()]
SequenceParameters = Annotated[SequenceQuery, Query()]
