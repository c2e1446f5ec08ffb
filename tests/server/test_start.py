"""What a server refuses to start with: one clear line each, before a socket listens.

python -m pytest tests/server/test_start.py
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from service.registry import Registry, run_files
from service.settings import ServerSettings
from tests.conftest import MakeRun
from tests.support.serving import refused, running
from tst_data.dataset.reader import Dataset
from tst_data.errors import InvalidInputError, NotFoundError

pytestmark = pytest.mark.slow


def test_finds_run_files_of_a_folder_by_their_names(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.json", "c.yml", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.yaml").mkdir()
    assert [path.name for path in run_files([tmp_path])] == ["a.json", "b.yaml", "c.yml"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        Registry.open([tmp_path])
    expected = "holds no run file; expected *.yaml, *.yml or *.json at its top level"
    assert str(caught.value) == f"folder '{tmp_path}': {expected}"


def test_a_dataset_is_not_a_folder_of_runs(tiny_dataset: Dataset) -> None:
    with pytest.raises(InvalidInputError, match=r"^folder '.*': is a dataset, .*; give a run file that uses it$"):
        Registry.open([tiny_dataset.path])


def test_two_runs_with_one_name_are_refused_naming_both_files(
    make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    first = make_run(tiny_dataset)
    second = shutil.copy(first, tmp_path / "second.yaml")
    with pytest.raises(InvalidInputError, match=r"second\.yaml': the name 'test' is also .*test\.yaml'; rename one$"):
        Registry.open([first, Path(second)])


def test_only_known_names_are_found(make_run: MakeRun, tiny_dataset: Dataset) -> None:
    registry = Registry.open([make_run(tiny_dataset)])
    assert registry.get("test").plan.num_steps == 5
    for name in ("", "..", "../test", "test.yaml", "/etc/passwd", "TEST"):
        with pytest.raises(NotFoundError) as caught:
            registry.get(name)
        assert str(caught.value) == f"run {name!r}: is not served here; /v1/runs lists the runs"
    registry.close()


@pytest.mark.parametrize("port", [-1, 65536])
def test_settings_are_checked(port: int) -> None:
    with pytest.raises(ValueError, match="port"):  # pydantic's own error is a ValueError
        ServerSettings(sources=(Path("run.yaml"),), port=port)


def check_one_line(*arguments: object, word: str, code: int = 1) -> None:
    result = refused(*arguments)
    assert result.returncode == code
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert word in line


def test_a_missing_run_is_one_line(tmp_path: Path) -> None:
    check_one_line(tmp_path / "missing.yaml", word="missing.yaml")


def test_a_wrong_setting_is_one_line(make_run: MakeRun, tiny_dataset: Dataset) -> None:
    check_one_line(
        make_run(tiny_dataset),
        "--workers",
        0,
        word="error: --workers (or TST_SERVE_WORKERS): expected at least 1 (given: 0)",
        code=2,
    )


def test_a_port_in_use_is_one_line(make_run: MakeRun, tiny_dataset: Dataset) -> None:
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        port = occupant.getsockname()[1]
        check_one_line(
            make_run(tiny_dataset), "--port", port, word=f"error: 127.0.0.1:{port}: the port is in use; stop"
        )


def test_a_host_of_another_machine_is_one_line(make_run: MakeRun, tiny_dataset: Dataset) -> None:
    check_one_line(make_run(tiny_dataset), "--host", "192.0.2.1", "--port", 0, word="192.0.2.1:0: cannot listen there")


def test_environment_variables_set_server_settings(make_run: MakeRun, tiny_dataset: Dataset) -> None:
    with running(make_run(tiny_dataset), environment={"TST_SERVE_WORKERS": "2"}) as server:
        assert len(server.workers()) == 2
