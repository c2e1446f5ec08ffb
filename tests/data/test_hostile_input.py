"""Hostile names, files and values: one clear line each, nothing obeyed by a terminal, and nothing left behind.

python -m pytest tests/data/test_hostile_input.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeRun
from tests.support.conversion import CommandLine, Outcome, write_texts
from tst_data.dataset.reader import Dataset
from tst_data.errors import InvalidInputError, NotFoundError
from tst_data.run.run_file import load_run, parse_run
from tst_data.visible_text import one_line, visible

UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal may obey. A line feed ends a line of ours."""

HOSTILE = "a\x1b[31m\x9b2J\u202eb\x07\nerror: c\x7f"
SHOWN = r"a\x1b[31m\u009b2J\u202eb\x07\nerror: c\x7f"
NOT_UTF8 = os.fsdecode(b"caf\xe9")

NAMES = pytest.mark.parametrize(("name", "shown"), [(HOSTILE, SHOWN), (NOT_UTF8, r"caf\xe9")], ids=["escapes", "bytes"])


def check_safe(outcome: Outcome, *, code: int) -> None:
    """Nothing that a terminal obeys is printed; an error is one line."""
    assert outcome.code == code, outcome
    assert not UNSAFE.search(outcome.output + outcome.errors), outcome
    assert "�" not in outcome.errors
    assert "Traceback" not in outcome.errors
    if code:
        assert outcome.output == ""
        assert outcome.errors.startswith("error: ")
        assert outcome.errors.count("\n") == 1
        assert len(outcome.errors) < 2200


def test_unsafe_characters_become_visible() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible(visible(HOSTILE)) == SHOWN
    assert visible("plain, é, 漢字, 👩‍🚀 and \\x1b") == "plain, é, 漢字, 👩‍🚀 and \\x1b"
    assert visible("\udce9\u00e9\ud800\u2066\t") == r"\xe9é\ud800\u2066\t"
    assert one_line("x" * 2000) == "x" * 2000
    shortened = one_line("a" + "\x1b" * 1_000_000 + "b")
    assert len(shortened) <= 2000
    assert shortened.startswith("a\\x1b")
    assert shortened.endswith("\\x1bb")
    assert str(InvalidInputError(HOSTILE)) == SHOWN
    assert InvalidInputError(HOSTILE).args == (HOSTILE,)


@NAMES
def test_names_in_refusals(tst_data: CommandLine, tmp_path: Path, name: str, shown: str) -> None:
    for arguments in (
        ["plan", tmp_path / name],
        ["inspect", tmp_path / name],
        ["verify", tmp_path / name],
        ["convert", tmp_path / name, "--tokenizer", "bytes", "--out", tmp_path / "out"],
        ["convert", f"{tmp_path / name}*", "--tokenizer", "bytes", "--out", tmp_path / "out"],
        ["convert", __file__, "--tokenizer", f"./{name}", "--out", tmp_path / "out"],
        ["convert", tmp_path, "--tokenizer", "bytes", "--out", f"s3://{name}"],
        ["convert", tmp_path, "--tokenizer", "bytes", "--out", "out", "--validation", name],
        ["convert", tmp_path, "--tokenizer", "bytes", "--out", "out", "--include", name],
        ["convert", tmp_path, "--tokenizer", "bytes", "--out", "out", "--workers", name],
        ["plan", tmp_path / "x", f"--{name}"],
        [name],
    ):
        outcome = tst_data(*arguments)
        check_safe(outcome, code=outcome.code or 1)
        assert shown in outcome.errors or "--help" in outcome.errors  # the parser of options has escapes of its own
    assert list(tmp_path.iterdir()) == []


def hostile_run(tst_data: CommandLine, folder: Path, name: str) -> Path:
    """A run over a dataset whose path, sources and document ids have this name."""
    (folder / name).mkdir()
    identity = HOSTILE if name == NOT_UTF8 else name
    (folder / name / f"{name}.jsonl").write_text(json.dumps({"text": HOSTILE * 50, "id": identity}) + "\n")
    source, out = folder / name / f"{name}.jsonl", folder / name / "data"
    made = tst_data("convert", source, "--tokenizer", "bytes", "--id-column", "id", "--workers", 1, "--out", out)
    check_safe(made, code=0)
    run = folder / name / "run.yaml"
    run.write_text(
        "name: test\ndatasets: [{path: data}]\nsequence_length: 8\nbatch_size: 2\n"
        "phases: [{bag_size: 2, steps: 3}, {bag_size: 1, steps: 1}]\n"
    )
    return run


@NAMES
def test_names_and_texts_in_what_commands_print(tst_data: CommandLine, tmp_path: Path, name: str, shown: str) -> None:
    run = hostile_run(tst_data, tmp_path, name)
    dataset = run.parent / "data"
    for arguments in (
        ["inspect", dataset],
        ["verify", dataset],
        ["plan", run],
        ["preview", run],
        ["materialize", run, "--out", run.parent / "bags"],
        ["materialize", run, "--out", run.parent / "bags"],
    ):
        outcome = tst_data(*arguments)
        check_safe(outcome, code=0)
        if arguments[0] != "plan":
            assert shown in outcome.output + outcome.errors
    for arguments in (["inspect", dataset], ["verify", dataset], ["plan", run], ["preview", run]):
        outcome = tst_data(*arguments, "--json")
        check_safe(outcome, code=0)
        content = json.loads(outcome.output)
        if arguments[0] in ("inspect", "verify"):
            assert content["path"] == str(dataset)
        if arguments[0] == "preview":
            assert content["documents"][0]["id"] == HOSTILE if name == NOT_UTF8 else name
            assert "\x1b" in "".join(bag["inputs"] for bag in content["bags"])


@pytest.mark.slow
@pytest.mark.needs_streaming
def test_json_is_valid_in_every_encoding(tmp_path: Path) -> None:
    (tmp_path / "é").mkdir()
    (tmp_path / "é" / "in.txt").write_text("words")
    arguments = ["convert", tmp_path / "é" / "in.txt", "--tokenizer", "bytes", "--out", tmp_path / "é" / "out"]
    command = [sys.executable, "-m", "tst_data.cli", *map(str, arguments), "--workers", "1", "--json"]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True)
    assert json.loads(done.stdout)["path"] == str(tmp_path / "é" / "out")
    lost = [sys.executable, "-m", "tst_data.cli", "verify", str(tmp_path / "é" / "out")]
    done = subprocess.run(lost, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True)
    assert rb"\xe9/out: all" in done.stdout


def test_a_hostile_dataset_path_is_shown_in_tables(tst_data: CommandLine, tmp_path: Path) -> None:
    run = hostile_run(tst_data, tmp_path, HOSTILE)
    content = f"name: test\ndatasets: [{{path: {json.dumps(HOSTILE + '/data')}}}]\n" + run.read_text().split("\n", 2)[2]
    (tmp_path / "run.yaml").write_text(content)
    for command in ("plan", "preview"):
        outcome = tst_data(command, tmp_path / "run.yaml")
        check_safe(outcome, code=0)
        assert SHOWN in outcome.output
    assert json.loads(tst_data("preview", tmp_path / "run.yaml", "--json").output)["dataset"] == f"{HOSTILE}/data"


RUN = """\
name: test
datasets: [{path: DATA}]
sequence_length: 8
batch_size: 2
phases: [{bag_size: 2, steps: 3}]
seed: 1
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("DATA", "~nosuchuser/x", "'datasets.0.path': '~nosuchuser/x': there is no such user"),
        ("DATA", '"a\\0b"', "'datasets.0.path': 'a\\x00b' holds a NUL character"),
        ("DATA", "x" * 300, "File name too long"),
        ("DATA", "loop/x", "loop/x': "),
        ("DATA", "fifo", "is a file; give the path of a folder"),
        ("DATA", "x/" * 100_000, "characters) ..."),
        ("DATA", '"a\\e[31m\\u202E\\nb"', r"dataset 'TMP/a\x1b[31m\u202e\nb': does not exist"),
        ("seed", "x", "unknown key 'x'"),
        ("name: test", f"? {'n' * 200_000}\n: 1", "nnn... ("),
        ("name: test", f"name: {'n' * 200_000}", "nnn"),
        ("name: test", '"\\e[31m": 1', r"unknown key '\x1b[31m'"),
        ("batch_size: 2", "batch_size: 68719476736", "'batch_size': expected at most 4194304 (given: 68719476736)"),
        ("steps: 3", "steps: 3, batch_size: 68719476736", "'phases.0.batch_size': expected at most 4194304"),
        ("batch_size: 2", "batch_size: 4194304", None),
        ("sequence_length: 8", "sequence_length: 268435456", "'phases.0': "),
        ("steps: 3", "steps: 1099511627776", None),
    ],
)
def test_hostile_values_in_run_files(
    tst_data: CommandLine, tmp_path: Path, tiny_dataset: Dataset, old: str, new: str, message: str | None
) -> None:
    (tmp_path / "data").symlink_to(tiny_dataset.path)
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    assert old in RUN
    (tmp_path / "run.yaml").write_text(RUN.replace(old, new).replace("DATA", "data"))
    began = time.monotonic()
    for command in ("plan", "preview"):
        outcome = tst_data(command, tmp_path / "run.yaml")
        if message is None:
            assert outcome.code in (0, 1)
            check_safe(outcome, code=outcome.code)
        else:
            check_safe(outcome, code=1)
            assert message.replace("TMP", str(tmp_path)) in outcome.errors
    assert time.monotonic() - began < 20


def test_only_regular_files_are_opened(tst_data: CommandLine, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.json"
    os.mkfifo(fifo)
    (tmp_path / "in.txt").write_text("words")
    convert = ["--workers", 1, "--out", tmp_path / "out"]
    for arguments, message in (
        (["plan", fifo], f"run file '{fifo}': cannot be read (it is a FIFO); give the path of a YAML or JSON file"),
        (["plan", "/dev/zero"], "run file '/dev/zero': cannot be read (it is a device)"),
        (["plan", tmp_path], "cannot be read (it is a folder)"),
        (["plan", tmp_path / "in.txt" / "x"], "in.txt/x': does not exist"),
        (["convert", fifo, "--tokenizer", "bytes", *convert], "fifo.json: is not a regular file"),
        (["convert", "/dev/zero", "--tokenizer", "bytes", *convert], "/dev/zero: is not a regular file"),
        (["convert", tmp_path / "in.txt", "--tokenizer", fifo, *convert], "fifo.json"),
        (["convert", tmp_path / "in.txt", "--tokenizer", "/dev/zero", *convert], "/dev/zero"),
    ):
        outcome = tst_data(*arguments)
        check_safe(outcome, code=1)
        assert message in outcome.errors
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_replaced_by_a_fifo_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "run.yaml").write_text(RUN)
    opened = os.open

    def replaced(path: Any, *rest: Any) -> int:
        return opened(tmp_path / "fifo", *rest)

    monkeypatch.setattr("tst_data.given_files.os.open", replaced)
    with pytest.raises(InvalidInputError, match=r"cannot be read \(it is a FIFO\)"):
        load_run(tmp_path / "run.yaml")


def test_a_huge_run_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(InvalidInputError, match="has 1,099,511,627,776 bytes, expected at most 16,777,216"):
        load_run(path)


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "\ud800"])
def test_paths_that_cannot_be(path: str) -> None:
    with pytest.raises((InvalidInputError, NotFoundError), match=r"cannot be read|is not a path"):
        load_run(path)
    run = parse_run(RUN.replace("DATA", "~/data"), Path("x"))
    assert run.dataset_paths() == (Path.home() / "data",)


def test_a_refused_conversion_leaves_no_parents(tst_data: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "words"}\n{"text": 1}\n')
    write_texts(tmp_path / "good.jsonl", ["words"])
    out = tmp_path / "a" / "b" / "c"
    arguments = ["--tokenizer", "bytes", "--workers", 1, "--out", out]
    check_safe(tst_data("convert", tmp_path / "in.jsonl", *arguments), code=1)
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").mkdir()
    check_safe(tst_data("convert", tmp_path / "in.jsonl", *arguments), code=1)
    assert list((tmp_path / "a").iterdir()) == []  # this one was there before
    check_safe(tst_data("convert", tmp_path / "good.jsonl", *arguments), code=0)
    assert [path.name for path in out.parent.iterdir()] == ["c"]


def damaged_run(make_run: MakeRun, tiny_dataset: Dataset, folder: Path) -> Path:
    shutil.copytree(tiny_dataset.path, folder / "damaged")
    for shard in (folder / "damaged").glob("*.mds"):
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
    return make_run(folder / "damaged")


def test_a_refused_materialization_leaves_no_parents(
    tst_data: CommandLine, make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    run = damaged_run(make_run, tiny_dataset, tmp_path)
    check_safe(tst_data("materialize", run, "--out", tmp_path / "a" / "b" / "c"), code=1)
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").mkdir()
    check_safe(tst_data("materialize", run, "--out", tmp_path / "a" / "b" / "c"), code=1)
    assert list((tmp_path / "a").iterdir()) == []


def test_folders_are_treated_alike(
    tst_data: CommandLine, make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    write_texts(tmp_path / "in.jsonl", ["words"])
    convert = ["convert", tmp_path / "in.jsonl", "--tokenizer", "bytes", "--workers", 1, "--out"]
    materialize = ["materialize", make_run(tiny_dataset), "--out"]
    for command in (convert, materialize):
        out = tmp_path / str(command[0])
        out.mkdir()
        (out / "mine").touch()
        outcome = tst_data(*command, out)
        check_safe(outcome, code=1)
        assert outcome.errors == f"error: {out}: already holds something else; choose another --out, or move it away\n"
        (out / "mine").unlink()
        os.mkfifo(out / "run.json")
        check_safe(tst_data(*command, out), code=1)
        (out / "run.json").unlink()
        check_safe(tst_data(*command, out), code=0)
        assert len(list(out.iterdir())) > 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "x", "--step-seconds", "0"],
        ["plan", "x", "--step-seconds", "fast"],
        ["preview", "x", "--bags", "0"],
        ["convert", "in", "--tokenizer", "bytes", "--out", "s3://x"],
        ["convert", "in", "--tokenizer", "bytes", "--out", "out", "--validation", "2"],
        ["convert", "in", "--tokenizer", "bytes", "--out", "out", "--workers", "0"],
        ["materialize", "x", "--out", "s3://x"],
    ],
)
def test_wrong_option_values_end_with_2(tst_data: CommandLine, arguments: list[str]) -> None:
    check_safe(tst_data(*arguments), code=2)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_conversion_with_one_line(tmp_path: Path, number: int, code: int) -> None:
    write_texts(tmp_path / "in.jsonl", [f"{index} words and more words" * 50 for index in range(200_000)])
    options: list[str | Path] = ["--tokenizer", "bytes", "--workers", "1", "--out", tmp_path / "out"]
    command: list[str | Path] = [sys.executable, "-m", "tst_data.cli", "convert", tmp_path / "in.jsonl"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / ".out.converting" / "tokenizer").exists():
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == "error: conversion: stopped; give the same command again to resume\n"
