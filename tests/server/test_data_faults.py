"""What happens to the data under a running server: it is replaced, overwritten, or cannot be read for a while.

python -m pytest tests/server/test_data_faults.py
"""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import MakeRun
from tests.server.conftest import BATCHES
from tests.support.serving import Response, check_problem, read_response, running
from tst_data import Dataset, Plan, load_run
from tst_data.contract.wire import decode
from tst_data.dataset.writer import write_dataset

pytestmark = pytest.mark.slow

STEPS = range(5)


@pytest.fixture(scope="module")
def other(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another dataset with the layout of `tiny_dataset`."""
    folder = tmp_path_factory.mktemp("other") / "dataset"
    tokens = np.random.default_rng(8).integers(0, 255, tiny_dataset.num_tokens - 1)
    write_dataset(
        folder, [tokens], vocabulary_size=256, end_of_text_id=255, sample_tokens=64, shard_tokens=4096
    ).close()  # fmt: skip
    return folder


@pytest.fixture
def folder(tiny_dataset: Dataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset.path, tmp_path / "dataset"))


def test_a_replaced_folder_changes_no_byte_and_an_overwritten_shard_is_refused(
    folder: Path, other: Path, tiny_dataset: Dataset, make_run: MakeRun
) -> None:
    with running(make_run(folder)) as server, Plan(load_run(make_run(tiny_dataset, name="same"))) as plan:
        first = server.ask(f"{BATCHES}/0").body
        away = folder.rename(folder.with_name("away"))
        shutil.copytree(other, folder)
        assert server.ask(f"{BATCHES}/0").body == first
        for step in STEPS:
            windows = decode(server.ask(f"{BATCHES}/{step}").body).windows
            assert np.array_equal(windows, plan.read_batch(step).windows)
        for shard in away.glob("*.mds"):
            times = shard.stat()
            shard.write_bytes(shard.read_bytes()[:-20] + bytes(20))
            os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
        for step in STEPS:
            problem = check_problem(server.ask(f"{BATCHES}/{step}"), 500, f"{BATCHES}/{step}")
            assert problem["type"].endswith("/damaged-data")


@contextlib.contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """The process can open nothing until the end of the block."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    lowest_free = next(number for number in range(len(taken) + 1) if number not in taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def test_exhausted_descriptors_are_a_503_that_passes(folder: Path, make_run: MakeRun) -> None:
    with running(make_run(folder)) as server:
        [worker] = server.workers()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        with contextlib.closing(connection):

            def ask(path: str) -> Response:
                connection.request("GET", path)
                return read_response(connection.getresponse())

            assert ask("/healthz").status == 200
            with without_descriptors(worker):
                for _ in range(2):
                    response = ask(f"{BATCHES}/0")
                    problem = check_problem(response, 503, f"{BATCHES}/0")
                    assert problem["type"].endswith("/unavailable")
                    assert problem["title"] == "The data cannot be read now"
                    assert "(Too many open files); raise the limit of open files" in problem["detail"]
                    assert int(response.headers["retry-after"]) >= 1
                response = ask("/readyz")
                assert check_problem(response, 503, "/readyz")["type"].endswith("/not-ready")
                assert "retry-after" in response.headers
                assert ask("/healthz").status == 200
            assert ask("/readyz").status == 200
            assert ask(f"{BATCHES}/0").status == 200
            assert "tst_damaged_data_total{" not in ask("/metrics").body.decode()
