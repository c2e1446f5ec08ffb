"""The rules of the code: who may import whom, and that importing is cheap.

python -m pytest tests/test_architecture.py
"""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tst_data", "service", "trainer_client")
HEAVY = {"streaming", "datasets", "transformers", "boto3", "google.cloud", "azure.storage", "oci", "torchvision"}


def loaded_by(statement: str) -> set[str]:
    """The names of all modules that a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import tst_data", HEAVY | {"torch", "fastapi"}),
        ("import tst_data.contract.wire, tst_data.plan.plan, tst_data.materialized.reader", HEAVY | {"torch"}),
        ("import trainer_client", HEAVY | {"fastapi", "pandas"}),
        ("import trainer_client.stream.http_source", HEAVY | {"fastapi", "pandas"}),
        ("import tst_data.cli", HEAVY | {"torch", "fastapi"}),
        ("import service.cli", HEAVY | {"torch"}),
    ],
)
def test_import_is_cheap(statement: str, unwanted: set[str]) -> None:
    assert loaded_by(statement) & unwanted == set()


def test_the_import_rules_hold() -> None:
    """The contracts of [tool.importlinter] in pyproject.toml."""
    checker = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([checker, "--no-cache"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_has_a_name_that_its_face_exports(package: str) -> None:
    """An exported function would hide the module of the same name, or the module the function."""
    face = importlib.import_module(package)
    modules = {module.name for module in pkgutil.iter_modules(face.__path__)}
    assert modules & set(face.__all__) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_says_what_it_is_for(package: str) -> None:
    for init in (ROOT / package).rglob("__init__.py"):
        assert init.read_text().startswith('"""'), init


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
