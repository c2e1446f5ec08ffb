"""The options and the progress of `tst-data convert`."""

from __future__ import annotations

import pytest

from tst_data.commands.convert import parse_share
from tst_data.commands.progress import describe, seconds_left
from tst_data.conversion.request import ConversionProgress
from tst_data.errors import InvalidInputError


@pytest.mark.parametrize(("value", "share"), [("0.5%", 0.005), ("0.005", 0.005), ("0", 0.0), (" 20 %", 0.2)])
def test_shares_are_read(value: str, share: float) -> None:
    assert parse_share(value) == pytest.approx(share)


@pytest.mark.parametrize("value", ["", "%", "1", "-1%", "nan", "inf", "0.5%%"])
def test_wrong_shares_are_refused(value: str) -> None:
    with pytest.raises(InvalidInputError, match="expected a share"):
        parse_share(value)


def test_progress_is_told_in_words() -> None:
    progress = ConversionProgress(
        stage="converting",
        documents=1200,
        tokens=50_000,
        bytes_done=300,
        bytes_total=1200,
        seconds=10.0,
        encoded_tokens=40_000,
        encoded_bytes=200,
    )
    assert seconds_left(progress) == 45.0
    assert describe(progress) == "converting 25%, 1,200 documents, 50,000 tokens, 4,000 tokens/s, 0:00:45 left"
