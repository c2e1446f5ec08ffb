"""Processes of the demo: each with a log of its own, none that outlives the demo.

A child is the leader of a session of its own, so Ctrl-C reaches the demo alone, and a child's own children end with
it. Should the demo itself be killed, the kernel kills the children (PR_SET_PDEATHSIG), and these end theirs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType

from tst_data.errors import TSTError

__all__ = ["Child", "Children", "DemoError", "all_ended", "last_line"]

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 8.0
PR_SET_PDEATHSIG = 1


class DemoError(TSTError):
    """The demo cannot go on, or what it found is not what was promised."""


class Child:
    """One running command. Its standard output and error go to `log` and, the former, to `output`."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], logs: Path, threads: int) -> None:
        self.name = name
        self.log, self.output = logs / f"{name}.log", logs / f"{name}.out"
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        with self.log.open("ab") as log, self.output.open("wb") as output:
            self.log_begin = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
                preexec_fn=_end_with(os.getpid()) if sys.platform == "linux" else None,
            )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def news(self) -> list[str]:
        """The lines of this process's log so far."""
        with self.log.open("rb") as file:
            file.seek(self.log_begin)
            return file.read().decode(errors="replace").splitlines()

    def check(self) -> bool:
        """True when it has ended well. Raises DemoError when it has ended otherwise."""
        code = self.process.poll()
        if code is None:
            return False
        if code != 0:
            raise DemoError(f"{self.name} ended with exit code {code}: {last_line(self.news())} (see '{self.log}')")
        return True

    def kill(self) -> None:
        """kill -9, of this process alone: what it started must notice by itself."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ask it to end; make it end. What is left of its process group goes too."""
        if not self.ended:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Children:
    """All processes of the demo: leaving the block stops every one of them, whatever the reason."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []

    def start(self, name: str, module: str, *arguments: object, threads: int = 1) -> Child:
        child = Child(name, module, [str(argument) for argument in arguments], self._logs, threads)
        self._children.append(child)
        return child

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            if not child.ended:
                child.process.terminate()
        for child in self._children:
            child.stop()


def all_ended(children: Iterable[Child]) -> bool:
    """Whether all have ended well; each is looked at. Raises DemoError where one has ended otherwise."""
    ended = [child.check() for child in children]
    return all(ended)


def last_line(lines: Sequence[str]) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _end_with(parent: int) -> Callable[[], None]:
    """What a child does before it becomes its command: ask to be killed when the demo's process is gone."""
    libc = ctypes.CDLL(None, use_errno=True)

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # gone already
            os._exit(1)

    return ask
