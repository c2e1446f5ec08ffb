"""What forked processes run (tests/support/forked.py): whole command lines, and a reader that does what it is told."""

from __future__ import annotations

import json
import sys
from functools import partial

from tst_data import Plan, load_run
from tst_data.cli import app
from tst_data.command_line import run_app
from tst_data.contract.batch import checksum
from tst_data.dataset import shard_reader
from tst_data.errors import TSTError
from tst_data.materialized import writer

__all__ = ["materialize_small_shards", "read_steps", "read_steps_of_old_files", "tst_data"]


def tst_data(*arguments: str) -> None:
    """`tst-data` with these arguments."""
    run_app(app, list(arguments))


def read_steps(run: str) -> None:
    """Open a run, then read each step whose number comes in on stdin, and print its checksum or its error.

    One line of JSON a step: {"checksum": ...} or {"error": NAME OF THE CLASS, "message": ...}.
    """
    with Plan(load_run(run)) as plan:
        _print({"fingerprint": plan.fingerprint})
        for line in sys.stdin:
            try:
                _print({"checksum": checksum(plan.read_batch(int(line)).windows)})
            except TSTError as error:
                _print({"error": type(error).__name__, "message": str(error)})


def read_steps_of_old_files(run: str) -> None:
    """The same, where files count as written long ago: what was verified needs no file to be opened."""
    shard_reader.YOUNG_SECONDS = -1e9
    read_steps(run)


def materialize_small_shards(run: str, out: str) -> None:
    """`tst-data materialize RUN --out OUT`, in shards of about 6 kB."""
    writer.materialize = partial(writer.materialize, shard_bytes=6000)
    tst_data("materialize", run, "--out", out)


def _print(value: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
