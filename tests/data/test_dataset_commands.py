"""`tst-data inspect` and `verify` as a user runs them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MakeRun
from tests.support.conversion import (
    CommandLine,
    check_refused,
)
from tst_data.dataset.writer import write_dataset


def test_inspect_and_verify(tmp_path: Path, corpus: Path, tst_data: CommandLine, convert: CommandLine) -> None:
    out = tmp_path / "out"
    report = convert(corpus, "--shard-tokens", 4096, "--json", out).json
    facts = tst_data("inspect", out, "--json").json
    assert facts["fingerprint"] == report["fingerprint"]
    assert (facts["documents"], facts["shards"], facts["dtype"]) == (300, report["shards"], "uint16")
    assert facts["tokenizer"]["name"] == "bytes"
    assert facts["made"]["sources"] == [str(corpus)]
    assert facts["first_documents"][1]["id"] == f"{corpus}/a.jsonl#1"
    assert report["fingerprint"] in tst_data("inspect", out).output
    assert tst_data("verify", out, "--json").json["valid"] is True
    shard = out / "shard.00001.mds"
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    check_refused(tst_data("verify", out), r"shard\.00001\.mds.*piece 0")
    check_refused(tst_data("inspect", tmp_path / "nowhere"), r"nowhere': does not exist; ")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of 20 shards of one piece each."""
    documents = [range(159)] * 100
    write_dataset(
        tmp_path / "data", documents, vocabulary_size=256, end_of_text_id=255, sample_tokens=16, shard_tokens=800
    ).close()
    return tmp_path / "data"


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Path.unlink, r"shard\.00013\.mds: is missing \(expected \d+ bytes\); restore it from a copy"),
        (cut_off, r"shard\.00013\.mds: has \d+ bytes, expected \d+; restore it from a copy"),
        (append, r"shard\.00013\.mds: has \d+ bytes, expected \d+; restore it from a copy"),
    ],
)
def test_plan_inspect_and_a_sample_notice_missing_and_short_shards(
    folder: Path, make_run: MakeRun, tst_data: CommandLine, change: Callable[[Path], None], words: str
) -> None:
    run = make_run(folder)
    assert tst_data("plan", run, "--json").code == 0
    change(folder / "shard.00013.mds")
    for command in (["plan", run], ["inspect", folder], ["verify", folder, "--sample", 0.01]):
        check_refused(tst_data(*command), words)


def test_a_sample_reads_that_share_and_says_so(folder: Path, tst_data: CommandLine) -> None:
    whole = tst_data("verify", folder, "--json").json
    assert (whole["pieces"], whole["pieces_of_all"], whole["sample"]) == (20, 20, None)
    assert whole["bytes"] == whole["bytes_of_all"] == sum(path.stat().st_size for path in folder.glob("*.mds"))
    assert whole["document_files"] == 20
    for share, pieces in ((0.001, 1), (0.25, 5), (0.26, 6), (1, 20)):
        facts = tst_data("verify", folder, "--sample", share, "--json").json
        assert (facts["pieces"], facts["document_files"], facts["sample"]) == (pieces, pieces, share)
        assert facts["valid"] is True
        assert facts["bytes"] <= whole["bytes"] * pieces / 20 + 100
    output = tst_data("verify", folder, "--sample", 0.25).output
    assert "5 of 20 pieces (" in output
    assert "all sizes are right" in output


def test_samples_differ_and_find_damage_sooner_or_later(folder: Path, tst_data: CommandLine) -> None:
    shard = folder / "shard.00007.mds"
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1
    shard.write_bytes(data)
    codes = [tst_data("verify", folder, "--sample", 0.5).code for _ in range(30)]
    assert set(codes) == {0, 1}  # each sample finds it with a probability of 0.5: all alike in 2 of 10^9 runs
    check_refused(tst_data("verify", folder, "--sample", 1), r"shard\.00007\.mds: piece 0 ")


def test_a_sample_checks_the_small_files(folder: Path, tst_data: CommandLine) -> None:
    (folder / "index.json").write_text("{}")
    check_refused(tst_data("verify", folder, "--sample", 0.1), r"index\.json: has hash")


def test_a_sample_notices_a_missing_document_file(folder: Path, tst_data: CommandLine) -> None:
    (folder / "documents" / "shard.00011.parquet").unlink()
    check_refused(tst_data("verify", folder, "--sample", 0.1), r"shard\.00011\.parquet: is missing")


@pytest.mark.parametrize("share", ["0", "-0.1", "1.01", "nan", "inf"])
def test_a_share_that_is_none_is_refused(folder: Path, tst_data: CommandLine, share: str) -> None:
    check_refused(
        tst_data("verify", folder, "--sample", share), r"--sample .*: expected a share above 0 and at most 1; "
    )
