"""How far a training is, for people: a bar on a terminal, and a line every few seconds anywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tst_data.visible_text import visible

__all__ = ["Progress"]

PLAIN_SECONDS = 5.0
"""Time from one plain line to the next, at least."""


class Progress:
    """Progress on stderr. The report goes to stdout."""

    def __init__(self, total_steps: int, first_step: int, *, shown: bool) -> None:
        self._total_steps = total_steps
        self._shown = shown
        self._begin = time.monotonic()
        self._first_step = first_step
        self._last_line = 0.0
        self._bar = self._task = None
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[news]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=total_steps, completed=first_step, news="")
            self._bar.start()

    def step(self, done: int, news: str | None) -> None:
        """A step is done; `news` is what was measured in it, if anything was."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)
            if news is not None:
                self._bar.update(self._task, news=news)
        elif self._shown and news is not None:
            now = time.monotonic()
            if now - self._last_line >= PLAIN_SECONDS or done == self._total_steps:
                self._last_line = now
                left = (now - self._begin) / (done - self._first_step) * (self._total_steps - done)
                self.say(f"step {done}/{self._total_steps}  {news}  {left:,.0f} s left")

    def say(self, line: str) -> None:
        """Print one line."""
        line = visible(line)
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        elif self._shown:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
