"""`tst-data inspect` and `verify` as a user runs them."""

from __future__ import annotations

from pathlib import Path

from tests.support.conversion import (
    CommandLine,
    check_refused,
)


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
