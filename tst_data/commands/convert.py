"""`tst-data convert`, `inspect` and `verify`: make a dataset, look at it, and check every byte of it."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tst_data.command_line import print_json
from tst_data.commands.progress import ConversionDisplay, verify_progress
from tst_data.conversion.pipeline import convert
from tst_data.conversion.request import Conversion, ConversionReport
from tst_data.dataset.document_index import Document
from tst_data.dataset.reader import Dataset, open_dataset
from tst_data.errors import InvalidInputError
from tst_data.stores.destination import local_destination

__all__ = ["parse_share", "register"]

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="The folder of a dataset.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

_SHOWN_TOKENS = 1 << 20
_SHOWN_DOCUMENTS = 5


def register(app: typer.Typer) -> None:
    """Add the commands to the `tst-data` application."""
    app.command("convert")(convert_command)
    app.command("inspect")(inspect_command)
    app.command("verify")(verify_command)


def convert_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Files, folders, globs, folders saved by `datasets`, or hf://owner/name[:split]. Text, JSONL "
            "(.jsonl .ndjson .json), CSV (.csv .tsv), Parquet, Arrow; each also .gz .zst .xz .bz2.",
        ),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(help="A tokenizer.json, a folder or Hub name, `bytes`, or train:SIZE (trained on the source)."),
    ],
    out: Annotated[str, typer.Option(metavar="DATASET", help="The folder to make.")],
    validation: Annotated[
        str,
        typer.Option(metavar="SHARE", help="Share of documents, as 0.5% or 0.005, for DATASET-validation."),
    ] = "0",
    column: Annotated[str, typer.Option(help="Column that holds the text, or ready-made token ids.")] = "text",
    id_column: Annotated[
        str | None, typer.Option(help="Column that holds the documents' ids, none null. Without: SOURCE#ROW.")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Each line of a text file is a document.")] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only these files of folders and globs, such as '*.py'. Repeatable."),
    ] = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Pass over documents that are not UTF-8, and count them.")
    ] = False,
    end_of_text: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="The end-of-text token, where the tokenizer does not say.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Encoding processes; as many as CPU cores by default.")] = None,
    shard_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a shard, a multiple of 4096; about 64 MB by default.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an interrupted conversion instead of going on with it.")
    ] = False,
    json: Json = False,
) -> None:
    """Turn documents into a dataset of token shards.

    Interrupted, the same command goes on where it stopped and ends with the same bytes.
    Example: tst-data convert corpus/*.jsonl.gz --tokenizer train:4096 --validation 0.5% --out data/corpus
    """
    conversion = Conversion(
        sources=tuple(sources),
        tokenizer=tokenizer,
        end_of_text=end_of_text,
        validation=parse_share(validation),
        column=column,
        id_column=id_column,
        lines=lines,
        include=tuple(include or ()),
        skip_invalid=skip_invalid,
        shard_tokens=shard_tokens,
    )
    destination = local_destination(out)
    num_workers = len(os.sched_getaffinity(0)) if workers is None else workers
    with ConversionDisplay() as display:
        try:
            report = convert(conversion, destination, num_workers=num_workers, restart=restart, report=display.show)
        except KeyboardInterrupt:
            display.note("stopped; give the same command again to go on")
            raise
    if json:
        print_json(report.model_dump())
    else:
        _print_report(report)


def inspect_command(dataset: DatasetFolder, json: Json = False) -> None:
    """Show what a dataset holds and how it was made.

    Example: tst-data inspect data/corpus
    """
    with open_dataset(dataset) as opened:
        facts = _facts(opened)
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        if name not in ("made", "first_documents"):
            _print_fact(name, value)
    for name, value in facts["made"].items():
        _print_fact(f"made: {name}", value)
    for document in facts["first_documents"]:
        _print_fact("document", f"{document['id']}, {document['length']:,} tokens from {document['first_token']:,} on")


def verify_command(dataset: DatasetFolder, json: Json = False) -> None:
    """Read every byte of a dataset and compare it with the hashes taken when it was written.

    Example: tst-data verify data/corpus
    """
    with open_dataset(dataset) as opened, verify_progress(opened.num_bytes) as progress:
        opened.verify(progress)
        facts = {"path": str(dataset), "fingerprint": opened.fingerprint, "bytes": opened.num_bytes, "valid": True}
    if json:
        print_json(facts)
    else:
        print(f"{dataset}: all {facts['bytes']:,} bytes of shards are as they were written")


def parse_share(value: str) -> float:
    """'0.5%' or '0.005' as a number from 0 to below 1. Raises InvalidInputError."""
    text = value.strip()
    number, scale = (text[:-1], 0.01) if text.endswith("%") else (text, 1.0)
    try:
        share = float(number) * scale
    except ValueError:
        share = -1.0
    if not 0.0 <= share < 1.0:
        raise InvalidInputError(f"--validation {value}: expected a share of documents, such as 0.5% or 0.005, below 1")
    return share


def _facts(dataset: Dataset) -> dict[str, Any]:
    manifest = dataset.manifest
    first = dataset.documents(0, min(dataset.num_tokens, _SHOWN_TOKENS))[:_SHOWN_DOCUMENTS]
    return {
        "path": str(dataset.path),
        "fingerprint": manifest.fingerprint,
        "documents": manifest.num_documents,
        "tokens": manifest.num_tokens,
        "shards": manifest.num_shards,
        "bytes": dataset.num_bytes,
        "dtype": manifest.dtype,
        "tokenizer": manifest.tokenizer.model_dump(),
        "vocabulary_size": manifest.vocabulary_size,
        "end_of_text_id": manifest.end_of_text_id,
        "written": datetime.fromtimestamp((dataset.path / "manifest.json").stat().st_mtime).isoformat(" ", "seconds"),
        "made": manifest.made,
        "first_documents": [_document_facts(document) for document in first],
    }


def _document_facts(document: Document) -> dict[str, Any]:
    return {
        "id": document.id,
        "source": document.source,
        "row": document.row,
        "first_token": document.first_token,
        "length": document.length,
    }


def _print_fact(name: str, value: Any) -> None:
    print(f"{name.replace('_', ' '):<22}{_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value[:5])) + (f" and {len(value) - 5} more" if len(value) > 5 else "")
    return str(value)


def _print_report(report: ConversionReport) -> None:
    for made in (report, report.validation):
        if made is not None:
            print(
                f"{made.path}: {made.documents:,} documents, {made.tokens:,} tokens, {made.shards:,} shards, "
                f"fingerprint {made.fingerprint[:16]}"
            )
    if report.already_done:
        print("nothing to do: this conversion was finished before")
        return
    print(f"{report.seconds:.1f} s, {report.tokens_per_second:,.0f} tokens/s")
    if report.passed_over:
        print(f"passed over {report.passed_over:,} documents that are not UTF-8", file=sys.stderr)
