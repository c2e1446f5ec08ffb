"""The supervisor: keeps the worker processes running, replaces those that die, and stops them all.

Even one worker has a supervisor: if somebody cuts off a shard file that a worker has mapped, reading it kills the
process with SIGBUS, and no code in that process can prevent it. A dead worker is replaced at once; if workers keep
dying right after their start, the pauses before the next start grow. uvicorn's own supervisor looks at its workers only
every half second, cannot tell when all of them are ready, and leaves them running when it is killed itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from prometheus_client.multiprocess import mark_process_dead

from service.logs import logger
from service.processes.worker import serve
from service.settings import ServerSettings
from tst_data.errors import UnavailableError

__all__ = ["Supervisor"]

SETTLED_SECONDS = 5.0
"""A worker that dies sooner than this after its start counts as a quick death."""

MAX_PAUSE_SECONDS = 30.0
"""Longest pause before another start: from the second quick death in a row on, 1 s, 2 s, 4 s, and so on."""

START_SECONDS = 300.0
"""How long all workers together may take to get ready. A worker opens every run before it serves."""


@dataclass
class _Worker:
    process: SpawnProcess
    report: Connection
    started: float

    def outcome(self) -> str:
        """Empty when the worker serves, otherwise the reason why it does not."""
        try:
            reason: str = self.report.recv()
        except EOFError:
            self.process.join(timeout=5)
            return f"it ended with exit code {self.process.exitcode}; see the log"
        return reason


class Supervisor:
    """The worker processes of one server."""

    def __init__(self, settings: ServerSettings, listener: socket.socket, metrics_folder: str) -> None:
        self._settings = settings
        self._listener = listener
        self._metrics_folder = metrics_folder
        self._workers: list[_Worker] = []
        self._context = multiprocessing.get_context("spawn")
        self._wake, self._waker = self._context.Pipe(duplex=False)
        self._signals = 0
        self._quick_deaths = 0

    def run(self, ready: Callable[[], None]) -> None:
        """Start the workers, call `ready` when all of them serve, and keep them running until SIGTERM or SIGINT.

        Raises UnavailableError when a worker cannot start.
        """
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._workers = [self._start(number) for number in range(self._settings.workers)]
            if self._wait_until_ready():
                ready()
                self._keep_running()
        finally:
            self._stop()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        """Count the signal and wake the loop that waits."""
        self._signals += 1
        self._waker.send_bytes(b"!")

    def _start(self, number: int) -> _Worker:
        """A new worker process. Only it holds the writing end of its pipe, so its end is seen as EOF."""
        report, reporter = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=serve,
            args=(self._settings, self._listener, reporter, number),
            name="tst-serve-worker",
            daemon=True,
        )
        process.start()
        reporter.close()
        return _Worker(process, report, time.monotonic())

    def _wait_until_ready(self) -> bool:
        """True when every worker serves, False when a signal came first."""
        waiting = list(self._workers)
        deadline = time.monotonic() + START_SECONDS
        while waiting and not self._signals:
            reported = connection.wait([worker.report for worker in waiting] + [self._wake], timeout=1.0)
            for worker in [worker for worker in waiting if worker.report in reported]:
                reason = worker.outcome()
                if reason:
                    raise UnavailableError(f"worker process: cannot start: {reason}")
                waiting.remove(worker)
            if time.monotonic() > deadline:
                raise UnavailableError(f"worker processes: are not ready after {START_SECONDS:.0f} s; see the log")
        return not self._signals

    def _keep_running(self) -> None:
        """Replace workers that die, until a signal comes."""
        while not self._signals:
            sentinels = [worker.process.sentinel for worker in self._workers]
            connection.wait([*sentinels, self._wake])
            for index, worker in enumerate(self._workers):
                if not self._signals and not worker.process.is_alive():
                    self._replace(index, worker)

    def _replace(self, index: int, worker: _Worker) -> None:
        """Start another worker in place of a dead one, after a pause if workers keep dying."""
        lived = time.monotonic() - worker.started
        self._quick_deaths = self._quick_deaths + 1 if lived < SETTLED_SECONDS else 0
        pause = min(MAX_PAUSE_SECONDS, 2.0 ** (self._quick_deaths - 2)) if self._quick_deaths > 1 else 0.0
        self._retire(worker)
        logger().error(
            "worker died, starting another",
            pid=worker.process.pid,
            exit_code=worker.process.exitcode,
            lived_seconds=round(lived, 1),
            pause_seconds=pause,
        )
        while not self._wake.poll(pause):
            try:
                self._workers[index] = self._start(index)
                return
            except OSError as error:  # no descriptor or no memory is free: the other workers serve, and it may pass
                pause = min(MAX_PAUSE_SECONDS, max(1.0, 2 * pause))
                logger().error("cannot start a worker, trying again", reason=str(error), pause_seconds=pause)

    def _retire(self, worker: _Worker) -> None:
        """Release what is left of a dead worker. Its counts stay; its share of the gauges goes."""
        worker.process.join()
        worker.report.close()
        mark_process_dead(worker.process.pid, self._metrics_folder)  # type: ignore[no-untyped-call]

    def _stop(self) -> None:
        """End the workers. Requests in progress get the grace time; then, or at a second signal, workers are killed."""
        self._listener.close()
        for worker in self._workers:
            if worker.process.is_alive() and worker.process.pid:
                os.kill(worker.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + self._settings.grace_seconds + 2
        first_signals = self._signals
        while any(worker.process.is_alive() for worker in self._workers):
            if time.monotonic() > deadline or self._signals > max(1, first_signals):
                for worker in self._workers:
                    worker.process.kill()
            connection.wait([worker.process.sentinel for worker in self._workers], timeout=0.1)
        for worker in self._workers:
            worker.process.join()
