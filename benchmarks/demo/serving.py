"""`tst-serve` in its own process, with the run files of a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.demo.processes import Child, Children, DemoError

__all__ = ["Server", "start_server"]

READY_SECONDS = 120.0


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


def start_server(folder: Path, runs: Iterable[str], children: Children, port: int = 0) -> Server:
    """Serve runs of a folder; port 0 takes a free one. Returns when the server is ready. Raises DemoError."""
    files = [folder / f"{run}.yaml" for run in runs]
    child = children.start("server", "service.cli", *files, "--port", port, "--json", "--log-level", "warning")
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        line, newline, _ = child.output.read_text(encoding="utf-8").partition("\n")
        if newline:
            return Server(child, json.loads(line))
        if child.check():
            break
        time.sleep(0.02)
    raise DemoError(f"server: not ready within {READY_SECONDS:.0f} s; see '{child.log}'")
