"""The fault matrix as a table, read from the tests: a row for each promise, a column for each fault.

A cell is the test `test_FAULT` in the file of the promise; the first word of its docstring says what happens.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

__all__ = ["FAULTS", "PROMISES", "Cell", "cells", "fault_sections"]

PROMISES = {
    "converting": "Converting",
    "materializing": "Materializing",
    "reading": "Reading in the process",
    "serving": "Serving",
    "training": "Training",
}
"""File of a row, without `test_`, and its title."""

FAULTS = {
    "kill_9": "kill -9",
    "disk_full": "disk full",
    "file_replaced": "file replaced",
    "file_truncated": "file truncated",
    "byte_flipped_before_use": "byte flipped before its first use",
    "byte_flipped_after_use": "byte flipped after its first use",
    "descriptors_exhausted": "descriptors exhausted",
    "permission_lost": "permission lost",
    "two_writers_at_once": "two writers at once",
}
"""Test of a column, without `test_`, and its title."""


class Cell(NamedTuple):
    """What happens when a fault meets a promise."""

    outcome: str
    """In one word: same, resumes, waits, unavailable or refused."""
    text: str
    """In a sentence or two."""


def cells(promise: str) -> tuple[str, dict[str, Cell]]:
    """What a row promises, and its cells by fault."""
    module = ast.parse((Path(__file__).parent / f"test_{promise}.py").read_text(encoding="utf-8"))
    found = {}
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and (fault := node.name.removeprefix("test_")) in FAULTS:
            outcome, _, text = " ".join((ast.get_docstring(node) or "").split()).partition(": ")
            found[fault] = Cell(outcome.lower(), text[:1].upper() + text[1:])
    return " ".join((ast.get_docstring(module) or "").split()), found


def fault_sections() -> str:
    """Markdown: the matrix, then a table for each promise."""
    rows = {promise: cells(promise) for promise in PROMISES}
    lines = ["| promise | " + " | ".join(FAULTS.values()) + " |", "| --- " * (len(FAULTS) + 1) + "|"]
    for promise, (_, row) in rows.items():
        link = f"[{PROMISES[promise]}](#faults-{promise})"
        lines.append(f"| {link} | " + " | ".join(row[fault].outcome for fault in FAULTS) + " |")
    for promise, (what, row) in rows.items():
        lines += ["", f"### {PROMISES[promise]} {{ #faults-{promise} }}", "", what, ""]
        lines += [f"Tests: `tests/restarts/faults/test_{promise}.py`", ""]
        lines += ["| fault | outcome | |", "| --- | --- | --- |"]
        lines += [f"| {title} | {row[fault].outcome} | {row[fault].text} |" for fault, title in FAULTS.items()]
    return "\n".join(lines)
