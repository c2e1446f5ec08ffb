"""How long a server takes to answer /healthz while it reads a dataset that is in no cache.

    python benchmarks/cold.py [--batches 60] [--rounds 3] [--clients 4] [--json]

The shards' pages are dropped from the page cache, a new `tst-serve` with one worker starts, and clients in another
process read all steps. So the server reads every byte from the disk, verifies it and copies it. Meanwhile `/healthz`,
which reads nothing, is asked every 2 ms over one connection. What it takes longer than on an idle server is time in
which the event loop did not run: other requests, and the sending of batches that are ready, wait as long. Then the same
with the data in the page cache, and with no clients at all.

The server, its clients and other programs share the cores, so these figures are noisy. The last two cases show the
interpreter's lock alone: in one process one thread reads all steps, and another one that sleeps for 0.2 ms at a time
notes how long it was away.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from service.processes.malloc import keep_freed_memory
from service.processes.worker import SWITCH_SECONDS
from tst_data import Plan, load_run
from tst_data.dataset.writer import write_dataset

ROOT = Path(__file__).resolve().parents[1]
WINDOW = 4097
BATCH_SIZE = 1024
VOCABULARY = 50_257
PAUSE_SECONDS = 0.002
IDLE_SECONDS = 2.0


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        prepare(folder, options.batches)
        cases: dict[str, Callable[[], dict[str, float]]] = {
            "cold": lambda: measure(folder, options, cold=True),
            "in the page cache": lambda: measure(folder, options, cold=False),
            "idle": lambda: measure(folder, options, cold=False, idle=True),
            "a thread, cold": lambda: away(folder, cold=True),
            "a thread, cached": lambda: away(folder, cold=False),
        }
        rounds = {name: [case() for _ in range(options.rounds)] for name, case in cases.items()}
    report = {
        name: {figure: statistics.median(one[figure] for one in measured) for figure in measured[0]}
        for name, measured in rounds.items()
    }
    print(json.dumps(report, indent=2) if options.json else table(report))


def prepare(folder: Path, batches: int) -> None:
    """Write a dataset of random tokens and a run over nearly all of it."""
    num_tokens = batches * BATCH_SIZE * (WINDOW - 1) * 11 // 10
    random = np.random.default_rng(7)
    documents = (random.integers(0, VOCABULARY - 1, 1_000_000) for _ in range(num_tokens // 1_000_000 + 1))
    write_dataset(folder / "dataset", documents, vocabulary_size=VOCABULARY, end_of_text_id=VOCABULARY - 1).close()
    run = {
        "name": "cold",
        "datasets": [{"path": "dataset"}],
        "sequence_length": 1024,
        "batch_size": BATCH_SIZE,
        "phases": [{"bag_size": 4, "steps": batches}],
    }
    (folder / "run.json").write_text(json.dumps(run))


def drop_from_page_cache(folder: Path) -> None:
    for path in folder.glob("*.mds"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """A new server -> its port."""
    command = [sys.executable, "-m", "service.cli", str(folder / "run.json"), "--port", "0", "--json"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        yield int(json.loads(server.stdout.readline())["url"].rsplit(":", 1)[1])
    finally:
        server.terminate()
        server.wait()


def measure(folder: Path, options: argparse.Namespace, *, cold: bool, idle: bool = False) -> dict[str, float]:
    """Milliseconds of /healthz while clients read all steps, and how fast these came."""
    if cold:
        drop_from_page_cache(folder / "dataset")
    with serving(folder) as port:
        clients = multiprocessing.get_context("spawn").Process(
            target=read_all, args=(port, 0 if idle else options.batches, options.clients)
        )
        began = time.perf_counter()
        clients.start()
        health = http.client.HTTPConnection("127.0.0.1", port)
        milliseconds: list[float] = []
        while clients.is_alive() or (idle and time.perf_counter() - began < IDLE_SECONDS):
            time.sleep(PAUSE_SECONDS)
            asked = time.perf_counter()
            health.request("GET", "/healthz")
            health.getresponse().read()
            milliseconds.append(1000 * (time.perf_counter() - asked))
        clients.join()
        seconds = time.perf_counter() - began
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "worst": max(milliseconds), "seconds": seconds}


def away(folder: Path, *, cold: bool) -> dict[str, float]:
    """Milliseconds between two moments at which a thread ran while another one read all steps."""
    if cold:
        drop_from_page_cache(folder / "dataset")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_away, (folder,))


def _away(folder: Path) -> dict[str, float]:
    sys.setswitchinterval(SWITCH_SECONDS)
    keep_freed_memory()
    with Plan(load_run(folder / "run.json")) as plan:
        reader = threading.Thread(target=lambda: [plan.read_batch(step) for step in range(plan.num_steps)])
        milliseconds: list[float] = []
        began = last = time.perf_counter()
        reader.start()
        while reader.is_alive():
            time.sleep(0.0002)
            now = time.perf_counter()
            milliseconds.append(1000 * (now - last))
            last = now
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "worst": max(milliseconds), "seconds": last - began}


def read_all(port: int, batches: int, num_clients: int) -> None:
    """Read steps 0, 1, ... in some threads."""
    steps = iter(range(batches))

    def read() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for step in steps:
            connection.request("GET", f"/v1/runs/cold/batches/{step}")
            response = connection.getresponse()
            assert response.status == 200
            response.read()

    threads = [threading.Thread(target=read) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def table(report: dict[str, dict[str, float]]) -> str:
    lines = [f"{'milliseconds':20}{'p50':>10}{'p99':>10}{'worst':>10}{'seconds':>10}"]
    for name, figures in report.items():
        lines.append(f"{name:20}" + "".join(f"{figures[key]:10.2f}" for key in ("p50", "p99", "worst", "seconds")))
    return "\n".join(lines)


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=60, help="steps of 8.4 MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--folder", help="where the dataset is written: on the disk to be measured")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
