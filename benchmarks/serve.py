"""Served batches compared with a bare socket and with local loaders: same windows, in turn, one table.

    python benchmarks/serve.py [--batches 40] [--rounds 5] [--dtype uint16 uint32] [--json]

Windows of 4,097 random tokens, 8.4 MB a batch (1,024 windows of uint16, 512 of uint32). Each contender is one process,
plus the worker processes of its loader. It makes torch tensors of the same windows in the same order. Only one
contender runs at a time. A round is timed from its first batch to its last, so the start of a loader is not counted,
and batches that it has fetched ahead by then are its advantage.

- socket: `sendall` of 8.4 MB messages from one process into a preallocated buffer of another, over loopback.
- served: `tst-serve` with one worker, and `BatchStream` with its checksums on.
- LitData: `TokensLoader` with blocks of 4,097, no shuffling, in `StreamingDataLoader`.
- streaming: `StreamingDataset` whose samples are the windows, no shuffling, in a torch `DataLoader`.

The two local loaders run with 0 and with 2 worker processes; the better figure counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tst_data import Plan, load_run
from tst_data.dataset.writer import write_dataset

ROOT = Path(__file__).resolve().parents[1]
WINDOW = 4097
BATCH_BYTES = 1024 * WINDOW * 2
VOCABULARY = {"uint16": 50_257, "uint32": 128_256}


def batch_size(dtype: str) -> int:
    return BATCH_BYTES // (WINDOW * np.dtype(dtype).itemsize)


def main() -> None:
    options = _options()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}  # for all contenders
    report: dict[str, Any] = {"window_tokens": WINDOW, "batches": options.batches, "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as scratch:
        for dtype in options.dtype:
            folder = Path(scratch) / dtype
            prepare(folder, dtype, options.batches)
            with serving(folder):
                report[dtype] = compare(folder, dtype, options)
    print(json.dumps(report, indent=2) if options.json else table(report, options.dtype))


def prepare(folder: Path, dtype: str, batches: int) -> None:
    """Write a dataset and a run over all of it, and the windows in the format of each other loader."""
    size = batch_size(dtype)
    num_tokens = batches * size * (WINDOW - 1) * 11 // 10
    random = np.random.default_rng(7)
    documents = (random.integers(0, VOCABULARY[dtype] - 1, 1_000_000) for _ in range(num_tokens // 1_000_000 + 1))
    vocabulary_size = VOCABULARY[dtype]
    with write_dataset(
        folder / "dataset", documents, vocabulary_size=vocabulary_size, end_of_text_id=vocabulary_size - 1
    ):
        pass
    run = {
        "name": "bench",
        "datasets": [{"path": "dataset"}],
        "sequence_length": 1024,
        "batch_size": size,
        "phases": [{"bag_size": 4, "steps": batches}],
    }
    (folder / "run.json").write_text(json.dumps(run))
    for write in (_write_litdata, _write_streaming):  # in new processes, because these imports start threads
        process = multiprocessing.get_context("spawn").Process(target=write, args=(folder, dtype))
        process.start()
        process.join()
        assert process.exitcode == 0


def _windows(folder: Path) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    with Plan(load_run(folder / "run.json")) as plan:
        for step in range(plan.num_steps):
            yield plan.read_batch(step).windows


def _write_litdata(folder: Path, dtype: str) -> None:
    import torch
    from litdata.streaming.cache import Cache
    from litdata.streaming.item_loader import TokensLoader

    kind = {"uint16": torch.uint16, "uint32": torch.int32}[dtype]  # LitData has no uint32
    cache = Cache(str(folder / "litdata"), chunk_bytes="64MB", item_loader=TokensLoader(WINDOW))
    index = 0
    for windows in _windows(folder):
        for window in windows:
            cache[index] = torch.from_numpy(window.view(np.int32) if dtype == "uint32" else window).to(kind)
            index += 1
    cache.done()
    cache.merge()


def _write_streaming(folder: Path, dtype: str) -> None:
    from tst_data.streaming_compat import import_streaming

    streaming = import_streaming()
    columns = {"tokens": f"ndarray:{dtype}:{WINDOW}"}
    with streaming.MDSWriter(out=str(folder / "streaming"), columns=columns, size_limit="64mb") as writer:
        for windows in _windows(folder):
            for window in windows:
                writer.write({"tokens": window})


def read_socket(folder: Path, dtype: str, batches: int) -> Callable[[int], float]:
    """The bare socket: rounds of messages from a sender process."""
    listener = socket.create_server(("127.0.0.1", 0))
    sender = multiprocessing.get_context("spawn").Process(
        target=_send_messages, args=(listener.getsockname()[1], batches), daemon=True
    )
    sender.start()
    connection, _ = listener.accept()
    buffer = memoryview(bytearray(BATCH_BYTES))

    def read_round(workers: int) -> float:
        connection.sendall(b"!")
        return _timed(_receive(connection, buffer) for _ in range(batches))

    return read_round


def _send_messages(port: int, batches: int) -> None:
    message = bytes(BATCH_BYTES)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while connection.recv(1):
            for _ in range(batches):
                connection.sendall(message)


def _receive(connection: socket.socket, buffer: memoryview) -> int:
    received = 0
    while received < len(buffer):
        received += connection.recv_into(buffer[received:])
    return received


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[None]:
    """`tst-serve` with one worker; its URL is in the file `url`."""
    command = [sys.executable, "-m", "service.cli", str(folder / "run.json"), "--port", "0", "--json"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        (folder / "url").write_text(json.loads(server.stdout.readline())["runs"][0]["url"])
        yield
    finally:
        server.terminate()
        server.wait()


def read_served(folder: Path, dtype: str, batches: int) -> Callable[[int], float]:
    """`BatchStream` from `tst-serve`."""
    from trainer_client import BatchStream

    stream = BatchStream((folder / "url").read_text())

    def read_round(workers: int) -> float:
        stream.seek(0)
        return _timed(batch.windows for batch in stream)

    return read_round


def read_litdata(folder: Path, dtype: str, batches: int) -> Callable[[int], float]:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.item_loader import TokensLoader

    dataset = StreamingDataset(str(folder / "litdata"), item_loader=TokensLoader(WINDOW), shuffle=False)

    def read_round(workers: int) -> float:
        return _timed(iter(StreamingDataLoader(dataset, batch_size=batch_size(dtype), num_workers=workers)))

    return read_round


def read_streaming(folder: Path, dtype: str, batches: int) -> Callable[[int], float]:
    from torch.utils.data import DataLoader

    from tst_data.streaming_compat import import_streaming

    size = batch_size(dtype)
    open_dataset = import_streaming().StreamingDataset

    def read_round(workers: int) -> float:
        dataset = open_dataset(local=str(folder / "streaming"), shuffle=False, batch_size=size)
        return _timed(batch["tokens"] for batch in DataLoader(dataset, batch_size=size, num_workers=workers))

    return read_round


def _timed(batches: Iterable[Any]) -> float:
    """Batches per second from the first one to the last."""
    count, began = -1, 0.0
    for batch in batches:
        assert (batch if isinstance(batch, int) else batch.numel() * batch.element_size()) == BATCH_BYTES
        count += 1
        if count == 0:
            began = time.perf_counter()
    return count / (time.perf_counter() - began)


CONTENDERS: dict[str, Callable[[Path, str, int], Callable[[int], float]]] = {
    "socket": read_socket,
    "served": read_served,
    "LitData": read_litdata,
    "streaming": read_streaming,
}
TURNS = (("socket", 0), ("served", 0), ("LitData", 0), ("LitData", 2), ("streaming", 0), ("streaming", 2))
"""Contenders with the number of worker processes of their loaders, in the order of a round."""


def _contend(name: str, folder: Path, dtype: str, batches: int, orders: Connection) -> None:
    """A contender's process: for each order a round with that many workers, until the order is -1."""
    multiprocessing.set_start_method("fork", force=True)  # the default for the workers of a loader
    read_round = CONTENDERS[name](folder, dtype, batches)
    while (workers := orders.recv()) >= 0:
        orders.send(read_round(workers))


def compare(folder: Path, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """Median M tokens/s of each contender, and its ratio to the socket of the same round."""
    context = multiprocessing.get_context("spawn")
    orders: dict[str, Connection] = {}
    processes = []
    rounds: dict[str, list[float]] = {}
    try:
        for name in CONTENDERS:
            orders[name], theirs = context.Pipe()
            process = context.Process(target=_contend, args=(name, folder, dtype, options.batches, theirs))
            process.start()
            theirs.close()  # so a contender that fails ends the comparison
            processes.append(process)
        for number in range(options.rounds + 1):
            for name, workers in TURNS:
                orders[name].send(workers)
                rate = orders[name].recv()
                if number:  # the first round warms up
                    label = name if name in ("socket", "served") else f"{name}, {workers} workers"
                    rounds.setdefault(label, []).append(rate * BATCH_BYTES / np.dtype(dtype).itemsize / 1e6)
        for order in orders.values():
            order.send(-1)
        for process in processes:
            process.join(60)
    finally:
        for process in processes:
            process.terminate()
    report: dict[str, Any] = {}
    for label, rates in rounds.items():
        ratios = [rate / base for rate, base in zip(rates, rounds["socket"], strict=True)]
        report[label] = {"million_tokens_per_second": statistics.median(rates), "of_socket": statistics.median(ratios)}
    return report


def table(report: dict[str, Any], dtypes: list[str]) -> str:
    lines = []
    for dtype in dtypes:
        served = report[dtype]["served"]["million_tokens_per_second"]
        lines.append(f"{dtype}: {batch_size(dtype):,} windows of {WINDOW:,} tokens a batch, {BATCH_BYTES / 1e6:.1f} MB")
        lines.append(f"  {'':22}{'M tokens/s':>12}{'of socket':>12}{'served is':>12}")
        for name, figures in report[dtype].items():
            rate = figures["million_tokens_per_second"]
            lines.append(f"  {name:22}{rate:12,.0f}{figures['of_socket']:12.3f}{served / rate:11.2f}x")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=40, help="batches in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", nargs="+", choices=["uint16", "uint32"], default=["uint16", "uint32"])
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
