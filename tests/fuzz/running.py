"""Giving a target many inputs: nothing but our errors is raised, and each input takes a short time."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.targets import Target
from tst_data.errors import TSTError
from tst_data.visible_text import MESSAGE_CHARACTERS, UNSAFE

__all__ = ["Counts", "fuzz"]

LIMIT_SECONDS = 5.0
"""CPU time of one input. The slowest YAML text of the allowed size takes about 5 s; the inputs here are far smaller."""


INPUTS_PER_EXAMPLE = 8
"""An example of hypothesis takes a few milliseconds besides its inputs."""


class TooSlowError(BaseException):
    """An input took too long. It passes every `except Exception` on its way."""


@dataclass
class Counts:
    """What became of the inputs of one target."""

    read: int = 0
    refused: int = 0
    slowest_seconds: float = 0.0


def fuzz(target: Target, num_inputs: int, *, number: int) -> Counts:
    """Give the target `num_inputs` inputs; `number` chooses which. A finding is raised with its smallest input."""
    counts = Counts()

    @seed(number)
    @settings(
        max_examples=-(-num_inputs // INPUTS_PER_EXAMPLE),
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(many=st.lists(target.inputs, min_size=INPUTS_PER_EXAMPLE, max_size=INPUTS_PER_EXAMPLE))
    def run(many: list[bytes]) -> None:
        for data in many:
            take(data)

    def take(data: bytes) -> None:
        began = time.process_time()
        try:
            with _limited():
                target.parse(data)
            counts.read += 1
        except TSTError as error:
            _check_message(error)
            counts.refused += 1
        except TooSlowError:
            raise AssertionError(f"took more than {LIMIT_SECONDS:g} s: {data!r}") from None
        counts.slowest_seconds = max(counts.slowest_seconds, time.process_time() - began)

    run()
    return counts


def _check_message(error: TSTError) -> None:
    """A message is one line without control characters, and not endless."""
    assert not UNSAFE.search(str(error))
    assert len(str(error)) <= MESSAGE_CHARACTERS


@contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
