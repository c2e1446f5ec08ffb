"""The processes that the demo starts. Each has its own log, and none outlives the demo.

Each child leads a new session. So Ctrl-C reaches only the demo, and the children of a child can be ended with it. If
the demo itself is killed, the kernel kills its children (PR_SET_PDEATHSIG), and those end their own.
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
    """The demo cannot continue, or its audit failed."""


class Child:
    """One running command. Its standard error goes to the file `log`, its standard output to the file `output`."""

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
        """True where it has ended with exit code 0, False while it runs. Raises DemoError for another exit code."""
        code = self.process.poll()
        if code is None:
            return False
        if code != 0:
            raise DemoError(f"{self.name}: ended with exit code {code}: {last_line(self.news())}; see '{self.log}'")
        return True

    def kill(self) -> None:
        """kill -9 of this process only. The processes that it started must notice by themselves."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ask it to end, and kill it where it does not. What is left of its process group is killed too."""
        if not self.ended:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Children:
    """All processes of the demo. Leaving the block stops all of them, after an error too."""

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
    """Whether all have ended with exit code 0. Raises DemoError where one has ended with another."""
    ended = [child.check() for child in children]  # a list, so that each is looked at
    return all(ended)


def last_line(lines: Sequence[str]) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")


def _end_with(parent: int) -> Callable[[], None]:
    """What a child does before it runs its command: ask the kernel to kill it when the demo's process ends."""
    libc = ctypes.CDLL(None, use_errno=True)

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the demo has ended already
            os._exit(1)

    return ask
