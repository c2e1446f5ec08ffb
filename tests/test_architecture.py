"""Importing is cheap and the packages know only whom they may. python -m pytest tests/test_architecture.py"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"streaming", "datasets", "transformers", "boto3", "google.cloud", "azure.storage", "oci", "torchvision"}


def loaded_by(statement: str) -> set[str]:
    """The names of all modules that a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import tst_data", HEAVY | {"torch", "fastapi"}),
        (
            "import tst_data.contract.wire, tst_data.plan.plan, tst_data.materialized.reader",
            HEAVY | {"torch"},
        ),
        ("import trainer_client", HEAVY | {"fastapi"}),
        ("import tst_data.cli", HEAVY | {"torch", "fastapi"}),
        ("import service.cli", HEAVY | {"torch"}),
    ],
)
def test_import_is_cheap(statement: str, unwanted: set[str]) -> None:
    assert loaded_by(statement) & unwanted == set()


@pytest.mark.parametrize(
    ("package", "strangers"),
    [
        ("tst_data", {"service", "trainer_client"}),
        ("service", {"trainer_client", "torch"}),
        ("trainer_client", {"service"}),
    ],
)
def test_packages_know_only_whom_they_may(package: str, strangers: set[str]) -> None:
    imported: dict[str, Path] = {}
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0]: path for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported[node.module.partition(".")[0]] = path
    assert {name: str(path) for name, path in imported.items() if name in strangers} == {}
