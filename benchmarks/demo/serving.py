"""`tst-serve` as a process of its own, over the run files of a folder."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.demo.processes import Child, Children, DemoError
from benchmarks.demo.settings import BASELINE, TST

__all__ = ["Server", "start_server"]

READY_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    child: Child
    ready: dict[str, Any]

    @property
    def port(self) -> int:
        return int(self.ready["url"].rsplit(":", 1)[1])

    def url(self, run: str) -> str:
        return f"{self.ready['url']}/v1/runs/{run}"


def start_server(name: str, folder: Path, children: Children, port: int = 0) -> Server:
    """Serve both runs; port 0 takes a free one. Returns when it says that it is ready. Raises DemoError."""
    runs = [folder / f"{run}.yaml" for run in (TST, BASELINE)]
    child = children.start(name, "service.cli", *runs, "--port", port, "--json", "--log-level", "warning")
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        line, newline, _ = child.output.read_text(encoding="utf-8").partition("\n")
        if newline:
            return Server(child, json.loads(line))
        if child.check():
            break
        time.sleep(0.02)
    raise DemoError(f"{name} did not get ready within {READY_SECONDS:.0f} s (see '{child.log}')")
