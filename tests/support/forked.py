"""Real processes without the seconds of their imports: forked from one process that has imported everything already.

A forked process runs a function of this repository, as a rule a whole command line, and can be limited, killed and
waited for like any other. On a machine where the tests run as root, permissions bind these processes nevertheless: they
have given up root's right to ignore them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.support.conversion import Outcome

__all__ = ["Child", "Forkserver", "bound_by_permissions", "forkserver"]

ROOT = Path(__file__).resolve().parents[2]

SERVER = """
import importlib, json, os, socket, sys

requests = socket.socket(fileno=int(sys.argv[1]))
for name in sys.argv[2:]:
    module, _, function = name.partition(":")
    imported = importlib.import_module(module)
    if function:
        getattr(imported, function)()
requests.send(b"ready")
while True:
    message, streams, _, _ = socket.recv_fds(requests, 1 << 20, 3)
    if not message:
        break
    request = json.loads(message)
    if "wait" in request:
        _, status = os.waitpid(request["wait"], 0)
        requests.send(str(os.waitstatus_to_exitcode(status)).encode())
        continue
    child = os.fork()
    if child == 0:
        requests.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", 1)
        module, _, function = request["function"].partition(":")
        code = 1
        try:
            getattr(importlib.import_module(module), function)(*request["arguments"])
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    for stream in streams:
        os.close(stream)
    requests.send(str(child).encode())
"""


@dataclass
class Child:
    """A process that runs. Lines can be exchanged with it over stdin and stdout."""

    pid: int
    _server: Forkserver
    _stdin: IO[str]
    _stdout: IO[str]
    _stderr: IO[str]
    _said: list[str] = field(default_factory=list)

    def ask(self, line: str) -> Any:
        """Write a line to its stdin, and read the JSON of the next line of its stdout."""
        self._stdin.write(line + "\n")
        self._stdin.flush()
        return self.next_line()

    def next_line(self) -> Any:
        line = self._stdout.readline()
        assert line, f"the process has ended: {self.wait().errors}"
        self._said.append(line)
        return json.loads(line)

    def kill(self) -> None:
        """`kill -9`; a process that has ended by itself is still there until it is waited for."""
        os.kill(self.pid, signal.SIGKILL)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The process does nothing, for as long as the block takes."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def wait(self) -> Outcome:
        """Close its stdin and wait for its end."""
        self._stdin.close()
        output = "".join(self._said) + self._stdout.read()
        code = self._server.reap(self.pid)
        self._stderr.seek(0)
        errors = self._stderr.read()
        self._stdout.close()
        self._stderr.close()
        return Outcome(code, output, errors)


class Forkserver:
    """The process that has imported `modules`, and starts the others. `module:function` is imported and called."""

    def __init__(self, *modules: str) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = theirs.fileno()
        self._process = subprocess.Popen(
            [*bound_by_permissions(), sys.executable, "-c", SERVER, str(number), *modules],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            pass_fds=[number],
            start_new_session=True,  # so that nothing survives `close`
        )
        theirs.close()
        assert self._requests.recv(100) == b"ready", "it cannot import its modules"

    def start(self, function: str, *arguments: Any) -> Child:
        """A new process that calls `module:function` with these arguments, which JSON can hold."""
        stdin, our_stdin = os.pipe()
        our_stdout, stdout = os.pipe()
        stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115  (read at its end)
        request = json.dumps({"function": function, "arguments": arguments}).encode()
        socket.send_fds(self._requests, [request], [stdin, stdout, stderr.fileno()])
        pid = int(self._requests.recv(100))
        for descriptor in (stdin, stdout):
            os.close(descriptor)
        return Child(pid, self, os.fdopen(our_stdin, "w"), os.fdopen(our_stdout), stderr)

    def tst_data(self, *arguments: Any) -> Child:
        """`tst-data` with these arguments."""
        return self.start("tests.support.entries:tst_data", *map(str, arguments))

    def reap(self, pid: int) -> int:
        """The exit code of a process when it has ended."""
        self._requests.send(json.dumps({"wait": pid}).encode())
        return int(self._requests.recv(100))

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._requests.close()


@contextmanager
def forkserver(*modules: str) -> Iterator[Forkserver]:
    server = Forkserver(*modules)
    try:
        yield server
    finally:
        server.close()


def bound_by_permissions() -> list[str]:
    """What a command begins with so that permissions bind it, also where the tests run as root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
