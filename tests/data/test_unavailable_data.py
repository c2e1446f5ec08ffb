"""Only a file that is missing, of another size or of another hash is damage. Everything else may pass.

python -m pytest tests/data/test_unavailable_data.py
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import MakeRun
from tests.support.forked import bound_by_permissions
from tst_data import Dataset, Plan, load_run, open_dataset
from tst_data.dataset.reader import read_windows
from tst_data.errors import DamagedDataError, InvalidInputError, NotFoundError, TSTError, UnavailableError
from tst_data.materialized.reader import open_materialized
from tst_data.materialized.writer import materialize

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tiny_dataset: Dataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset.path, tmp_path / "dataset"))


def open_and_read(folder: Path) -> None:
    with open_dataset(folder) as dataset:
        read_all(dataset)
        all_documents(dataset)


def read_all(dataset: Dataset) -> object:
    return dataset.read(0, dataset.num_tokens)


def read_one_window(dataset: Dataset) -> object:
    return read_windows([dataset], np.zeros(1, np.int64), dataset.shard_first_token[:1], 9)


def all_documents(dataset: Dataset) -> object:
    return dataset.documents(0, dataset.num_tokens)


USES: list[Callable[[Dataset], object]] = [read_all, read_one_window, all_documents, Dataset.verify]

ERRORS = {
    errno.EMFILE: "raise the limit of open files of this process",
    errno.ENFILE: "raise the limit of open files of this machine",
    errno.EACCES: "let this user read it",
    errno.EPERM: "let this user read it",
    errno.ESTALE: "check the network mount",
    errno.ETIMEDOUT: "check the network mount",
    errno.EIO: "check the disk or the network mount",
    errno.ENOMEM: "give this machine more memory",
    errno.ENOLCK: "check the disk or the network mount",
}


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["open", "stat", "preadv", "mmap"])
def test_an_error_that_may_pass_is_not_damage_and_passes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    def fail(*arguments: Any, **named: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with open_dataset(folder) as dataset:
        dataset.pieces(0)
        place = "tst_data.dataset.shard_reader.mmap.mmap" if call == "mmap" else f"os.{call}"
        with monkeypatch.context() as failing:
            failing.setattr(place, fail)
            with pytest.raises(UnavailableError) as caught:
                read_all(dataset)
        words = f": cannot be read now ({os.strerror(number)}); {ERRORS[number]}"
        assert str(folder / "shard.00000.mds") + words in str(caught.value)
        assert len(dataset.read(0, dataset.num_tokens)) == dataset.num_tokens


@pytest.mark.parametrize("use", USES)
def test_every_use_tells_unavailable_from_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Dataset], object]
) -> None:
    def fail(*arguments: Any, **named: Any) -> Any:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with open_dataset(folder) as dataset:
        with monkeypatch.context() as failing:
            failing.setattr("os.open", fail)
            with pytest.raises(UnavailableError, match=r"Stale file handle\); check the network mount"):
                use(dataset)
        use(dataset)
    monkeypatch.setattr("os.open", fail)
    with pytest.raises(UnavailableError, match=f"^{folder}: cannot be read now"):
        open_dataset(folder)


def test_too_little_memory_is_unavailable(folder: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **named: Any) -> Any:
        raise MemoryError

    with Plan(load_run(make_run(folder))) as plan:
        with monkeypatch.context() as failing:
            failing.setattr("tst_data.dataset.reader.copy_windows", fail)
            with pytest.raises(UnavailableError, match="too little memory"):
                plan.read_batch(0)
        plan.read_batch(0)


NO_DESCRIPTORS = """
import os, resource, sys
from tst_data import Plan, load_run, open_dataset
from tst_data.errors import UnavailableError

uses = {
    "read": lambda: dataset.read(0, 10),
    "documents": lambda: dataset.documents(0, 1),
    "open": lambda: open_dataset(sys.argv[1]),
}
dataset = open_dataset(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for name, use in uses.items():
    try:
        use()
    except UnavailableError as error:
        print(name, error)
for number in taken:
    os.close(number)
for use in uses.values():
    use()
Plan(load_run(sys.argv[2])).read_batch(0)
print("recovered")
"""


@pytest.mark.slow
def test_exhausted_descriptors_are_unavailable_and_pass(folder: Path, make_run: MakeRun) -> None:
    done = run_code(NO_DESCRIPTORS, folder, make_run(folder))
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[3] == "recovered"
    for name, line in zip(("read", "documents", "open"), lines, strict=False):
        assert line.startswith(f"{name} {folder}")
        assert "cannot be read now (Too many open files); raise the limit of open files of this process" in line


def test_a_tokenizer_without_descriptors_or_temporary_files(
    tmp_path: Path, convert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no temporary files. Without descriptors it is unavailable, and then it is read."""
    (tmp_path / "text.txt").write_text("some text")
    assert convert(tmp_path / "text.txt", tmp_path / "out").code == 0

    def fail(*arguments: Any, **named: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with open_dataset(tmp_path / "out") as dataset:
        monkeypatch.setattr("tempfile.mkdtemp", fail)
        with monkeypatch.context() as failing:
            failing.setattr("os.open", fail)
            with pytest.raises(UnavailableError, match="Too many open files"):
                dataset.tokenizer()
        assert dataset.tokenizer().decode(dataset.read(0, 4)) == "some"


NO_PERMISSION = """
import sys
from tst_data import open_dataset
from tst_data.errors import UnavailableError

uses = {
    "read": lambda: dataset.read(0, 10),
    "documents": lambda: dataset.documents(0, 1),
    "open": lambda: open_dataset(sys.argv[1]),
}
dataset = open_dataset(sys.argv[1])
print("opened", flush=True)
sys.stdin.readline()
for name, use in uses.items():
    try:
        use()
    except UnavailableError as error:
        print(name, error)
print("tried", flush=True)
sys.stdin.readline()
for use in uses.values():
    use()
print("recovered")
"""


@pytest.mark.slow
def test_lost_permissions_are_unavailable_and_come_back(folder: Path) -> None:
    process = subprocess.Popen(
        [*bound_by_permissions(), sys.executable, "-c", NO_PERMISSION, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "opened\n"
        folder.chmod(0)
        print(file=process.stdin, flush=True)
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines[3] == "tried\n"
        for name, line in zip(("read", "documents", "open"), lines, strict=False):
            assert line.startswith(f"{name} {folder}")
            assert "cannot be read now (Permission denied); let this user read it" in line
        folder.chmod(0o755)
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "recovered\n"
    assert process.returncode == 0


def run_code(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is limited to about 100 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
    os.chdir(here)


def make_device_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("make", [make_fifo, make_socket, make_device_link, make_folder])
@pytest.mark.parametrize(
    "name", ["shard.00000.mds", "documents/shard.00000.parquet", "shards.parquet", "manifest.json"]
)
def test_what_is_not_a_file_is_never_opened(folder: Path, make: Callable[[Path], None], name: str) -> None:
    make(folder / name)
    kind = "a folder" if make is make_folder else "a FIFO, a socket or a device"
    with pytest.raises(DamagedDataError, match=f"{name}: is {kind}, expected a file; restore it from a copy"):
        open_and_read(folder)


def test_a_shard_that_becomes_a_fifo_is_never_opened(folder: Path) -> None:
    with open_dataset(folder) as dataset:
        read_all(dataset)
        make_fifo(folder / "shard.00000.mds")
        for _ in range(2):
            with pytest.raises(DamagedDataError, match="is a FIFO"):
                read_all(dataset)


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("missing", NotFoundError, "dataset '.*/missing': does not exist; give the path of a folder"),
        ("dataset/manifest.json", InvalidInputError, "dataset '.*': is a file; give the path of a folder"),
        ("dataset/manifest.json/inside", NotFoundError, "does not exist; give the path"),
        ("loop", NotFoundError, "dataset '.*/loop': does not exist; give the path of a folder"),
    ],
)
def test_what_is_not_a_folder_is_refused(folder: Path, place: str, error: type[TSTError], message: str) -> None:
    (folder.parent / "loop").symlink_to("loop")
    with pytest.raises(error, match=message):
        open_dataset(folder.parent / place)


def test_documents_are_damaged_only_if_missing_or_changed(folder: Path) -> None:
    file = folder / "documents" / "shard.00000.parquet"
    data = file.read_bytes()
    with open_dataset(folder) as dataset:
        file.unlink()
        with pytest.raises(DamagedDataError, match=r"shard\.00000\.parquet: is missing; restore it from a copy"):
            dataset.documents(0, 1)
        file.write_bytes(data[:-1])
        with pytest.raises(DamagedDataError, match=rf"parquet: has {len(data) - 1} bytes with hash"):
            dataset.documents(0, 1)
        file.write_bytes(data)
        assert dataset.documents(0, 1)


def test_a_materialized_run_tells_unavailable_from_damaged(
    folder: Path, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Plan(load_run(make_run(folder))) as plan:
        materialize(plan, tmp_path / "run")

    def fail(*arguments: Any, **named: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with open_materialized(tmp_path / "run") as run:
        with monkeypatch.context() as failing:
            failing.setattr("os.open", fail)
            with pytest.raises(UnavailableError, match="Too many open files"):
                run.read_batch(0)
        run.read_batch(0)
        next((tmp_path / "run").glob("*.mds")).unlink()
        with pytest.raises(DamagedDataError, match="is missing"):
            run.read_batch(0)
    make_fifo(tmp_path / "run" / "run.json")
    with pytest.raises(DamagedDataError, match=r"run\.json: is a FIFO"):
        open_materialized(tmp_path / "run")
