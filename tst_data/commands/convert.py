"""`tst-data convert`: documents to a dataset."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from tst_data.command_line import CommandStoppedError, JsonOption, print_json, print_line, print_note
from tst_data.commands.progress import ConversionDisplay
from tst_data.conversion.pipeline import convert
from tst_data.conversion.request import Conversion, ConversionReport
from tst_data.errors import InvalidInputError
from tst_data.stores.destination import local_destination

__all__ = ["parse_lost_share", "parse_share", "register"]


def _about(name: str) -> str | None:
    return Conversion.model_fields[name].description


def register(app: typer.Typer) -> None:
    """Add the command to the `tst-data` application."""
    app.command("convert")(convert_command)


def convert_command(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help=_about("sources"))],
    tokenizer: Annotated[str, typer.Option(metavar="TOKENIZER", help=_about("tokenizer"))],
    out: Annotated[str, typer.Option(metavar="DATASET", help="The folder to make.")],
    validation: Annotated[
        str,
        typer.Option(
            metavar="SHARE", help="Share of the documents, such as 0.5% or 0.005, that go into DATASET-validation."
        ),
    ] = "0",
    column: Annotated[str, typer.Option(metavar="NAME", help=_about("column"))] = "text",
    id_column: Annotated[str | None, typer.Option(metavar="NAME", help=_about("id_column"))] = None,
    lines: Annotated[bool, typer.Option("--lines", help=_about("lines"))] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help=f"{_about('include')} May be given more than once."),
    ] = None,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help=_about("skip_invalid"))] = False,
    max_lost: Annotated[str, typer.Option(metavar="SHARE", help=_about("max_lost"))] = "0.1%",
    end_of_text: Annotated[str | None, typer.Option(metavar="TOKEN", help=_about("end_of_text"))] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Encoding processes; by default one per CPU core.")
    ] = None,
    shard_tokens: Annotated[int | None, typer.Option(metavar="NUMBER", help=_about("shard_tokens"))] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an interrupted conversion and start again, instead of resuming.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Turn documents into a dataset of token shards.

    After an interruption the same command resumes, and the result has the same bytes.

    Example: tst-data convert wiki/*.jsonl --tokenizer train:4096 --validation 0.5% --out data/wiki
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
        max_lost=parse_lost_share(max_lost),
    )
    destination = local_destination(out)
    num_workers = len(os.sched_getaffinity(0)) if workers is None else workers
    with ConversionDisplay() as display:
        try:
            report = convert(conversion, destination, num_workers=num_workers, restart=restart, report=display.show)
        except KeyboardInterrupt:
            raise CommandStoppedError("conversion: stopped; give the same command again to resume") from None
    if json:
        print_json(report.model_dump())
    else:
        _print_report(report)


def parse_share(value: str) -> float:
    """'0.5%' or '0.005' as a number from 0 to below 1. Raises InvalidInputError."""
    share = _number(value)
    if not 0.0 <= share < 1.0:
        raise InvalidInputError(f"--validation {value}: expected a share of documents below 1; give 0.5% or 0.005")
    return share


def parse_lost_share(value: str) -> float:
    """The same for --max-lost, where 1 is allowed: then nothing is refused."""
    share = _number(value)
    if not 0.0 <= share <= 1.0:
        raise InvalidInputError(f"--max-lost {value}: expected a share of characters; give 0.1% or 0.001")
    return share


def _number(value: str) -> float:
    """A number, or one with a percent sign; -1 for anything else."""
    text = value.strip()
    number, scale = (text[:-1], 0.01) if text.endswith("%") else (text, 1.0)
    try:
        return float(number) * scale
    except ValueError:
        return -1.0


def _print_report(report: ConversionReport) -> None:
    for made in (report, report.validation):
        if made is not None:
            print_line(
                f"{made.path}: {made.documents:,} documents, {made.tokens:,} tokens, {made.shards:,} shards, "
                f"fingerprint {made.fingerprint[:16]}"
            )
            if made.lost_characters:
                share = 100 * made.lost_characters / made.characters
                print_note(
                    f"{made.path}: the tokenizer cannot represent {made.lost_characters:,} of {made.characters:,} "
                    f"characters ({share:.2g}%)"
                )
    if report.already_done:
        encoder = f", with {report.encoder}" if report.encoder else ""
        print_line(f"nothing to do: this conversion was finished before{encoder}")
        return
    print_line(f"{report.seconds:.1f} s, {report.tokens_per_second:,.0f} tokens/s")
    if report.passed_over:
        print_note(f"skipped {report.passed_over:,} documents that are not UTF-8")
