"""The pages say what the code does: files they name exist, examples load and run, tables hold what is written.

`make docs` checks links between pages, and fills the reference from the code. python -m pytest tests/test_docs.py
"""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import BaseModel

from service.api.problems import KINDS
from tests.conftest import MakeRun
from trainer_client.trainer.config import CheckpointConfig, EvaluationConfig, TrainConfig
from tst_data.contract import wire
from tst_data.contract.description import PhaseDescription, RunDescription
from tst_data.dataset.reader import Dataset
from tst_data.materialized.layout import COLUMNS, MaterializedRun, MaterializedShard
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run, parse_run
from tst_data.run.specification import DatasetReference, Phase, RunSpecification

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = sorted(ROOT.glob("*.md"))
DOCS_PAGES = sorted((ROOT / "docs").rglob("*.md"))
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES_THAT_NAME_FILES = [
    *sorted((ROOT / "docs" / "architecture").glob("*.md")),
    ROOT / "docs" / "promises.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
]
SOURCE_FOLDERS = ("tst_data", "service", "trainer_client", "tests", "benchmarks", "examples", "docs")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def first_column(page: str, heading: str) -> list[str]:
    """The names in the first column of the first table after a heading, in order."""
    text = (ROOT / "docs" / "reference" / page).read_text()
    after = text[text.index(f"\n{heading}\n") :]
    table = re.search(r"(?:^\|.*\n)+", after, flags=re.MULTILINE)
    assert table is not None
    names: list[str] = []
    for row in table[0].splitlines()[2:]:
        names += re.findall(r"`([^`]+)`", row.split("|")[1])
    return names


@pytest.mark.parametrize("page", PAGES_THAT_NAME_FILES, ids=name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    pattern = rf"`((?:{'|'.join(SOURCE_FOLDERS)})/[\w./-]+\.\w+)(?:::\w+)?`"
    missing = [path for path in re.findall(pattern, page.read_text()) if not (ROOT / path).is_file()]
    assert not missing


def test_every_promise_names_a_test() -> None:
    rows = [line for line in (ROOT / "docs" / "promises.md").read_text().splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| promise |", "| --- |"))]
    assert len(promises) > 30
    for row in promises:
        assert re.search(r"`tests/(\w+/)?test_\w+\.py`", row.split("|")[2]), row


@pytest.mark.parametrize("page", ROOT_PAGES, ids=name)
def test_links_of_the_root_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


@pytest.mark.parametrize("page", [*DOCS_PAGES, *ROOT_PAGES], ids=name)
def test_a_page_loads_nothing_from_another_host(page: Path) -> None:
    text = page.read_text()
    assert "```mermaid" not in text
    assert not re.search(r"!\[[^\]]*\]\(https?:", text)


@pytest.mark.parametrize("page", [ROOT / "README.md", *GUIDES], ids=name)
def test_the_files_shown_load(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        content = yaml.safe_load(text)
        if "phases" in content:
            assert parse_run(text, Path()).specification.phases
        else:
            TrainConfig.model_validate(content)


@pytest.mark.parametrize("page", [page for page in GUIDES if page.name != "install.md"], ids=name)
def test_the_messages_that_a_guide_quotes_are_in_the_code(page: Path) -> None:
    section = page.read_text().partition("## What goes wrong")[2]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| ")]
    quoted = [words for row in rows for words in re.findall(r"`([^`]+ [^`]+)`", row)]
    assert quoted
    for words in quoted:
        for part in re.split(r"'[^']*'|\d+", words):  # the values in a message are of the example
            assert any(part in message for message in strings_of_the_code()), words


@cache
def strings_of_the_code() -> tuple[str, ...]:
    """All strings of the packages, without the values that are put in."""
    found: list[str] = []
    for package in ("tst_data", "service", "trainer_client"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(str(part.value) for part in node.values if isinstance(part, ast.Constant)))
                elif isinstance(node, ast.Constant):
                    found.append(str(node.value))
    return tuple(found)


@pytest.mark.slow
def test_the_snippets_of_the_own_loop_run_one_after_another(
    make_run: MakeRun, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tiny_dataset).rename("wiki.yaml")
    names: dict[str, object] = {}
    for snippet in blocks(ROOT / "docs" / "guides" / "own-loop.md", "python"):
        exec(snippet, names)
    assert names["batch"].step == 3  # type: ignore[attr-defined]
    names["stream"].close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "model", [RunSpecification, DatasetReference, Phase, TrainConfig, EvaluationConfig, CheckpointConfig]
)
def test_every_key_of_a_file_has_a_description(model: type[BaseModel]) -> None:
    assert [key for key, field in model.model_fields.items() if not field.description] == []


def test_the_wire_format_page_lists_columns_and_metadata(make_run: MakeRun, tiny_dataset: Dataset) -> None:
    with Plan(load_run(make_run(tiny_dataset))) as plan:
        body = wire.encode(plan.read_batch(0, 0, 1))
    with pa.ipc.open_stream(body) as reader:
        schema = reader.schema
    assert first_column("wire.md", "## Columns") == schema.names
    assert first_column("wire.md", "## Metadata") == [key.decode() for key in schema.metadata or {}]
    names: dict[str, object] = {"body": body}
    (snippet,) = blocks(ROOT / "docs" / "reference" / "wire.md", "python")
    exec(snippet, names)


def test_the_page_of_files_lists_what_is_in_them(tiny_dataset: Dataset) -> None:
    manifest = json.loads((tiny_dataset.path / "manifest.json").read_text())
    assert set(first_column("files.md", "### manifest.json")) - {"name", "kind", "hash"} == set(manifest)
    shards = pq.read_schema(tiny_dataset.path / "shards.parquet")
    assert first_column("files.md", "### shards.parquet") == shards.names
    documents = pq.read_schema(tiny_dataset.path / "documents" / "shard.00000.parquet")
    assert first_column("files.md", "### documents/shard.00000.parquet") == documents.names
    assert set(first_column("files.md", "## Materialized run")) == set(COLUMNS)
    text = (ROOT / "docs" / "reference" / "files.md").read_text()
    for key in [*MaterializedRun.model_fields, *MaterializedShard.model_fields]:
        assert f"`{key}`" in text


def test_the_page_of_http_lists_problems_and_the_description_of_a_run() -> None:
    text = (ROOT / "docs" / "reference" / "http.md").read_text()
    for kind, _ in KINDS.values():
        assert f"| `{kind}` |" in text
    for key in [*RunDescription.model_fields, *PhaseDescription.model_fields]:
        assert f"`{key}`" in text
