"""Running `tst-data` in the process of a test, making sources, and reading datasets back as documents."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_data.dataset.reader import open_dataset

__all__ = [
    "END_OF_TEXT",
    "CommandLine",
    "Outcome",
    "check_refused",
    "documents_of",
    "hashes_of",
    "tokens_of",
    "write_jsonl",
    "write_texts",
]

END_OF_TEXT = 256
"""Of the tokenizer `bytes`."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended; the code is negative for a signal."""

    code: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        return json.loads(self.output)


CommandLine = Callable[..., Outcome]
"""The fixtures `tst_data` and `convert`."""


def documents_of(folder: Path) -> list[list[int]]:
    """The token ids of every document, as the document index cuts the token stream."""
    with open_dataset(folder) as dataset:
        index = dataset.documents(0, dataset.num_tokens)
        return [dataset.read(document.first_token, document.length).tolist() for document in index]


def tokens_of(text: str) -> list[int]:
    return [*text.encode(), END_OF_TEXT]


def hashes_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    return write_jsonl(path, [{"text": text} for text in texts])


def check_refused(outcome: Outcome, message: str) -> None:
    assert outcome.code != 0
    lines = outcome.errors.strip().splitlines()
    assert len(lines) == 1, outcome.errors
    assert re.search(message, lines[0]), lines[0]
    assert lines[0].startswith("error: ")
    assert outcome.output == ""
