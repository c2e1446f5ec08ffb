"""Progress during the whole demo: bars and a clock on a terminal, plain lines where there is none.

Each line begins with the time since the demo began. An event (a kill, a retry, the switch) gets its own line. The
progress of a stage is shown in bars, or in one line every ten seconds.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

__all__ = ["Display", "clock"]

PLAIN_SECONDS = 10.0


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds: 4:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


class Display:
    """The demo's progress on stderr; the table goes to stdout."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._console = Console(stderr=True, highlight=False)
        self._bars: dict[str, Any] = {}
        self._shown: dict[str, str] = {}
        self._next_plain = 0.0
        self.history: list[tuple[float, str]] = []
        """The events and their times, for the report."""
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.fields[clock]}", style="dim"),
                TextColumn("{task.description:<9}", markup=False),
                BarColumn(bar_width=28),
                TextColumn("{task.fields[count]}"),
                TextColumn("{task.fields[news]}", markup=False),
                console=self._console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    @property
    def seconds(self) -> float:
        """Time since the demo began."""
        return time.monotonic() - self._begin

    def title(self, line: str) -> None:
        """A new stage begins. The bars of the stage before it are removed."""
        self.clear()
        self._console.print(f"[bold]{clock(self.seconds):>5}  {line}[/bold]", soft_wrap=True)

    def say(self, line: str) -> None:
        """An event."""
        self.history.append((self.seconds, line))
        self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(f"{clock(self.seconds):>5}    {line}", markup=False, soft_wrap=True)

    def clear(self) -> None:
        """Remove the bars."""
        if self._progress is not None:
            for task in list(self._progress.task_ids):
                self._progress.remove_task(task)
        self._bars.clear()
        self._shown.clear()
        self._next_plain = time.monotonic() + PLAIN_SECONDS

    def show(self, name: str, done: float, total: float, news: str = "", *, counted: bool = True) -> None:
        """The progress of one thing; with its numbers where `counted`. Cheap, so it may be called often."""
        count = f"{done:,.0f}/{total:,.0f}" if counted else ""
        if self._progress is not None:
            now = clock(self.seconds)
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(name, total=total, news="", count="", clock=now)
            self._progress.update(self._bars[name], completed=done, total=total, news=news, count=count, clock=now)
            return
        self._shown[name] = " ".join(f"{name} {count} {news}".split())
        if time.monotonic() >= self._next_plain:
            self._next_plain = time.monotonic() + PLAIN_SECONDS
            self._print("; ".join(self._shown.values()))

    def __enter__(self) -> Display:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self.clear()
            self._progress.stop()
        sys.stderr.flush()
