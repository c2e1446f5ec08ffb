"""`tst-data inspect` and `verify`: look at a dataset, and check every byte of it, or a random share."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tst_data.command_line import JsonOption, print_json, print_line
from tst_data.commands.progress import verify_progress
from tst_data.dataset.document_index import Document
from tst_data.dataset.reader import Dataset, open_dataset
from tst_data.errors import InvalidInputError

__all__ = ["register"]

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="The folder of a dataset.")]

_SHOWN_TOKENS = 1 << 20
"""The first documents are searched in this many tokens from the start."""
_SHOWN_DOCUMENTS = 5


def register(app: typer.Typer) -> None:
    """Add the commands to the `tst-data` application."""
    app.command("inspect")(inspect_command)
    app.command("verify")(verify_command)


def inspect_command(dataset: DatasetFolder, json: JsonOption = False) -> None:
    """Show what a dataset holds and how it was made.

    Example: tst-data inspect data/wiki
    """
    with open_dataset(dataset) as opened:
        opened.check_files()
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


def verify_command(
    dataset: DatasetFolder,
    sample: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Read only this share of the data, at random: 0.01 reads a hundredth."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Read every byte of a dataset and check that it is as it was written.

    With --sample the sizes of all files are compared, the small files are read, and a random share of the shards'
    pieces of 1 MiB: another choice each time.

    Example: tst-data verify data/wiki
    """
    if sample is not None and not 0 < sample <= 1:
        raise InvalidInputError(f"--sample {sample}: expected a share above 0 and at most 1; 0.01 reads a hundredth")
    with (
        open_dataset(dataset) as opened,
        verify_progress(round(opened.num_bytes * (1.0 if sample is None else sample))) as progress,
    ):
        read = opened.verify(progress, sample=sample)
        facts = {
            "path": str(dataset),
            "fingerprint": opened.fingerprint,
            "bytes": read.num_bytes,
            "bytes_of_all": opened.num_bytes,
            "pieces": read.num_pieces,
            "pieces_of_all": read.num_pieces_of_all,
            "document_files": read.num_document_files,
            "sample": sample,
            "valid": True,
        }
    if json:
        print_json(facts)
    elif sample is None:
        print_line(f"{dataset}: all {facts['bytes']:,} bytes of shards are as they were written")
    else:
        print_line(
            f"{dataset}: {facts['pieces']:,} of {facts['pieces_of_all']:,} pieces ({facts['bytes']:,} of "
            f"{facts['bytes_of_all']:,} bytes of shards) were read and are as they were written; all sizes are right"
        )


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
        "written": datetime.fromtimestamp(dataset.written_at).isoformat(" ", "seconds"),
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
    print_line(f"{name.replace('_', ' '):<22}{_shown(value)}")


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
