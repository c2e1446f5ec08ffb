"""How far a conversion or a verification is, on stderr: a bar on a terminal, otherwise a plain line every ten seconds.

The time left is computed from bytes of the sources, because only their size is known before everything is read.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tst_data.conversion.request import ConversionProgress
from tst_data.visible_text import visible

__all__ = ["ConversionDisplay", "verify_progress"]

_PLAIN_INTERVAL_SECONDS = 10.0


class ConversionDisplay:
    """Shows ConversionProgress. A context manager, which removes the bar at its end."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._next_line = time.monotonic() + _PLAIN_INTERVAL_SECONDS
        if self._console.is_terminal:
            self._bar = Progress(
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
                redirect_stdout=False,
            )
            self._task = self._bar.add_task("", total=None)

    def show(self, progress: ConversionProgress) -> None:
        """Show a new state. Cheap: it may be called often."""
        if self._bar is not None:
            total = progress.bytes_total or None
            self._bar.update(self._task, completed=progress.bytes_done, total=total, description=describe(progress))
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _PLAIN_INTERVAL_SECONDS
            self.note(describe(progress))

    def note(self, message: str) -> None:
        """Print one line on stderr."""
        self._console.print(visible(message), markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def describe(progress: ConversionProgress) -> str:
    """The state in words: stage, share, documents, tokens, rate and time left."""
    share = f" {progress.bytes_done / progress.bytes_total:.0%}" if progress.bytes_total else ""
    words = [progress.stage + share]
    if progress.documents:
        words.append(f"{progress.documents:,} documents, {progress.tokens:,} tokens")
    if progress.encoded_tokens and progress.seconds > 0:
        words.append(f"{progress.encoded_tokens / progress.seconds:,.0f} tokens/s")
    left = seconds_left(progress)
    if left is not None:
        words.append(f"{int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02} left")
    return ", ".join(words)


def seconds_left(progress: ConversionProgress) -> float | None:
    """Seconds to the end at the rate so far, None while it is not known."""
    if not progress.encoded_bytes or progress.seconds < 1.0:
        return None
    left_bytes = max(0, progress.bytes_total - progress.bytes_done)
    return left_bytes * progress.seconds / progress.encoded_bytes


@contextmanager
def verify_progress(num_bytes: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the bytes that were read since the last call."""
    if not sys.stderr.isatty():
        yield lambda read_bytes: None
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verifying", total=num_bytes)
        yield lambda read_bytes: bar.update(task, advance=read_bytes)
