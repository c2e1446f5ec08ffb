"""The same `tst-data convert` again: after it finished, and after an interruption at any step."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
import tokenizers

from tests.support.conversion import (
    CommandLine,
    check_refused,
    hashes_of,
)
from tst_data.dataset.manifest import load_manifest, write_manifest
from tst_data.dataset.writer import DatasetWriter


def test_the_finished_command_again_does_nothing(tmp_path: Path, corpus: Path, convert: CommandLine) -> None:
    out = tmp_path / "out"
    assert convert(corpus, "--validation", "0.1", out).code == 0
    before = hashes_of(out)
    again = convert(corpus, "--validation", "10%", "--workers", 2, out)
    assert again.code == 0
    assert "nothing to do" in again.output
    assert hashes_of(out) == before
    check_refused(convert(corpus, out), r"already holds another dataset; choose another --out")
    check_refused(convert(corpus, "--validation", "0.1", "--lines", out), r"already holds another dataset")
    (corpus / "d.txt").write_text("one more")
    check_refused(convert(corpus, "--validation", "0.1", out), r"already holds another dataset")
    assert hashes_of(out) == before


def test_an_interrupted_conversion_is_not_mixed_with_another(
    tmp_path: Path, corpus: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, staging = tmp_path / "out", tmp_path / ".out.converting"
    with monkeypatch.context() as patch:
        patch.setattr("tst_data.conversion.split_writer.DatasetWriter.finish", interrupt)
        outcome = convert(corpus, "--shard-tokens", 4096, out)
        assert outcome.code == 130
        assert "give the same command again" in outcome.errors
    assert staging.is_dir()
    assert not out.exists()
    check_refused(convert(corpus, "--lines", "--shard-tokens", 4096, out), r"interrupted conversion with lines false")
    os.utime(corpus / "c.txt", (1, 1))
    check_refused(convert(corpus, "--shard-tokens", 4096, out), r"interrupted conversion with other source files")
    with (staging / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        check_refused(convert(corpus, out), r"another process is converting to it")
    assert convert(corpus, "--lines", "--restart", out).code == 0
    assert not staging.exists()


def test_another_version_of_the_library_does_not_write_the_rest(
    tmp_path: Path, corpus: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "out", ("--tokenizer", "train:300", "--shard-tokens", 4096)
    assert convert(corpus, *options, tmp_path / "whole").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("tokenizers.__version__", "0.20.9")
        patch.setattr("tst_data.conversion.split_writer.DatasetWriter.finish", interrupt)
        assert convert(corpus, *options, out).code == 130
    now = f"tokenizers {tokenizers.__version__}"
    check_refused(
        convert(corpus, *options, out),
        rf"interrupted conversion with encoder 'tokenizers 0\.20\.9' instead of '{now}'; install that version "
        r"to resume it, or --restart to discard it$",
    )
    assert convert(corpus, *options, "--restart", "--json", out).json["encoder"] == now
    assert load_manifest(out).made["encoder"] == now
    assert load_manifest(out).fingerprint == load_manifest(tmp_path / "whole").fingerprint


def test_a_finished_dataset_stays_finished_when_the_library_is_updated(
    tmp_path: Path, corpus: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "out", ("--tokenizer", "train:300")
    with monkeypatch.context() as patch:
        patch.setattr("tokenizers.__version__", "0.20.9")
        first = convert(corpus, *options, "--json", out).json
    before = hashes_of(out)
    again = convert(corpus, *options, out)
    assert again.code == 0
    assert "nothing to do: this conversion was finished before, with tokenizers 0.20.9\n" in again.output
    assert hashes_of(out) == before
    report = convert(corpus, *options, "--json", out).json
    assert (report["already_done"], report["encoder"]) == (True, "tokenizers 0.20.9")
    assert report["fingerprint"] == first["fingerprint"]


def test_a_dataset_made_before_versions_were_noted_stays_finished(
    tmp_path: Path, corpus: Path, convert: CommandLine
) -> None:
    out = tmp_path / "out"
    assert convert(corpus, out).code == 0
    manifest = load_manifest(out)
    older = {
        key: manifest.made[key] for key in manifest.made if key not in {"encoder", "characters", "lost_characters"}
    }
    write_manifest(out, manifest.model_copy(update={"made": older}))
    again = convert(corpus, out)
    assert again.code == 0
    assert again.output.endswith("nothing to do: this conversion was finished before\n")


def test_a_conversion_that_an_older_version_began_is_not_resumed(
    tmp_path: Path, corpus: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, request = tmp_path / "out", tmp_path / ".out.converting" / "conversion.json"
    with monkeypatch.context() as patch:
        patch.setattr("tst_data.conversion.split_writer.DatasetWriter.finish", interrupt)
        assert convert(corpus, out).code == 130
    older = json.loads(request.read_bytes())
    del older["encoder"]
    request.write_text(json.dumps(older))
    check_refused(convert(corpus, out), r"interrupted conversion with options of an older version .* or --restart to")
    assert convert(corpus, "--restart", out).code == 0


def interrupt(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_files_that_are_wholly_converted_are_not_read_again(
    tmp_path: Path, corpus: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--validation", "0.2", "--shard-tokens", 4096)
    assert convert(corpus, *options, tmp_path / "whole").code == 0
    with monkeypatch.context() as patch:
        commit = DatasetWriter._commit
        committed: list[int] = []

        def commit_some(self: DatasetWriter, length: int) -> None:
            if len(committed) == 15:
                raise KeyboardInterrupt
            committed.append(length)
            commit(self, length)

        patch.setattr(DatasetWriter, "_commit", commit_some)
        assert convert(corpus, *options, tmp_path / "out").code == 130
    first = corpus / "a.jsonl"
    status = first.stat()
    first.write_bytes(b"\xff" * status.st_size)
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert convert(corpus, *options, tmp_path / "out").code == 0
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "whole")
    assert hashes_of(tmp_path / "out-validation") == hashes_of(tmp_path / "whole-validation")


@pytest.mark.slow
@pytest.mark.parametrize("step", ["write_manifest", "rename", "last rename", "remove"])
def test_an_interrupted_end_is_completed(
    tmp_path: Path, corpus: Path, convert: CommandLine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    options = ("--validation", "0.2", "--shard-tokens", 4096)
    assert convert(corpus, *options, tmp_path / "whole").code == 0
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        if step == "write_manifest":
            patch.setattr("tst_data.dataset.writer.write_manifest", interrupt)
        elif step == "remove":
            patch.setattr("tst_data.conversion.staging.Staging.remove", interrupt)
        else:
            rename = os.rename
            calls: list[tuple[Path, ...]] = []

            def rename_once(*paths: Path) -> None:
                calls.append(paths)
                if step == "rename" or len(calls) == 2:
                    raise KeyboardInterrupt
                rename(*paths)

            patch.setattr("tst_data.conversion.staging.os.rename", rename_once)
        assert convert(corpus, *options, out).code == 130
    assert convert(corpus, *options, out).code == 0
    assert hashes_of(out) == hashes_of(tmp_path / "whole")
    assert hashes_of(tmp_path / "out-validation") == hashes_of(tmp_path / "whole-validation")
    assert not (tmp_path / ".out.converting").exists()
