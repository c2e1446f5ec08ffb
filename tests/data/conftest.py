"""Fixtures for tests of the command line `tst-data`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.conversion import CommandLine, Outcome, write_texts
from tst_data.cli import app
from tst_data.command_line import run_app


@pytest.fixture
def tst_data(capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """`tst_data("convert", ...)` runs the command line in this process, just as the console script does."""

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            run_app(app, [str(argument) for argument in arguments])
        code = ended.value.code
        assert isinstance(code, int)
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture
def convert(tst_data: CommandLine) -> CommandLine:
    """`convert(source, ..., out)` with the tokenizer `bytes` and one worker, unless told otherwise."""

    def run(*arguments: object) -> Outcome:
        defaults: list[object] = []
        if "--tokenizer" not in arguments:
            defaults += ["--tokenizer", "bytes"]
        if "--workers" not in arguments:
            defaults += ["--workers", 1]
        return tst_data("convert", *arguments[:-1], *defaults, "--out", arguments[-1])

    return run


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of 300 documents in three files."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    random = np.random.default_rng(5)
    texts = [" ".join(random.choice(["alpha", "beta", "gamma", "délta"], length)) for length in range(300)]
    write_texts(folder / "a.jsonl", texts[:100])
    with gzip.open(folder / "b.jsonl.gz", "wt", compresslevel=1) as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts[100:299])
    (folder / "c.txt").write_text(texts[299])
    return folder


@pytest.fixture
def files_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are kept as verified at once, as in files that were written long ago."""
    monkeypatch.setattr("tst_data.dataset.shard_reader.YOUNG_SECONDS", -1e9)
