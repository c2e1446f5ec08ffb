"""Checks of what a caller passes to a stream. A wrong option is refused in one line, before anything is opened."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import torch

from tst_data.configuration import shown
from tst_data.errors import InvalidInputError

__all__ = ["checked_device", "checked_seconds", "whole_number"]


def whole_number(name: str, value: Any, *, at_least: int | None = None) -> int:
    """The value as an int. Raises InvalidInputError for other kinds of values (also true and false) and smaller ones."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidInputError(f"{name}: expected a whole number (given: {shown(value)})")
    if at_least is not None and value < at_least:
        raise InvalidInputError(f"{name}: expected at least {at_least} (given: {value})")
    return int(value)


def checked_seconds(name: str, value: Any) -> float:
    """A finite number of seconds, more than 0. Raises InvalidInputError for anything else."""
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidInputError(f"{name}: expected seconds, more than 0 (given: {shown(value)})")
    return value


def checked_device(device: torch.device | str | int | None) -> torch.device | None:
    """The torch device; None stays None. Raises InvalidInputError for a name that torch does not know."""
    try:
        return None if device is None else torch.device(device)
    except (RuntimeError, TypeError):
        raise InvalidInputError(
            f"device: expected what torch.device takes, such as 'cuda:0' (given: {shown(device)})"
        ) from None
