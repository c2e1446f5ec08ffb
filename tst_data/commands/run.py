"""`tst-data plan`, `preview` and `materialize`: what a run needs, what its bags say, and its batches as files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tst_data.command_line import (
    CommandStoppedError,
    JsonOption,
    output_console,
    print_json,
    print_line,
    print_note,
    table_cell,
)
from tst_data.errors import InvalidInputError
from tst_data.inspection.plan_report import PlanReport, report_plan
from tst_data.inspection.preview import Preview, preview_sequence
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run
from tst_data.stores.destination import local_destination, writing_to

__all__ = ["register"]

RunFile = Annotated[Path, typer.Argument(metavar="RUN", help="The run file (YAML or JSON).")]

BAG_COLORS = ("cyan", "magenta")


def register(app: typer.Typer) -> None:
    """Add the commands to the `tst-data` application."""
    app.command()(plan)
    app.command()(preview)
    app.command()(materialize)


def plan(
    run: RunFile,
    step_seconds: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Seconds that the trainer takes for a step; the rates depend on it."),
    ] = 1.0,
    json: JsonOption = False,
) -> None:
    """Show what a run needs: steps, windows, tokens, epochs, skipped tokens and rates.

    A run that cannot work is refused with the reason.

    Example: tst-data plan wiki.yaml --step-seconds 0.5
    """
    if not 0 < step_seconds < float("inf"):
        raise InvalidInputError(
            f"--step-seconds {step_seconds}: expected a number above 0; give the seconds that a step takes"
        )
    with Plan(load_run(run)) as opened:
        for dataset in opened.datasets:
            dataset.check_files()
        report = report_plan(opened, step_seconds=step_seconds)
    if json:
        print_json(report.model_dump())
    else:
        _print_report(report)
    for warning in report.warnings:
        print_note(f"warning: {warning}")


def _print_report(report: PlanReport) -> None:
    console = output_console()
    console.print(
        f"run {report.run}: {report.total_steps:,} steps, {report.total_tokens:,} raw tokens, "
        f"{report.total_latent_positions:,} latent positions, {report.total_passed_over:,} tokens skipped"
    )
    console.print(f"fingerprint {report.fingerprint}")
    table = _table("phase", "steps", "s", "superpose", "B", "L", "windows", "raw tokens", "latents", "skipped")
    for phase in report.phases:
        table.add_row(
            str(phase.phase),
            f"{phase.first_step:,}..{phase.first_step + phase.steps - 1:,}",
            str(phase.bag_size),
            phase.superpose,
            f"{phase.batch_size:,}",
            f"{phase.sequence_length:,}",
            f"{phase.windows:,}",
            f"{phase.tokens:,}",
            f"{phase.latent_positions:,}",
            f"{phase.passed_over:,}",
        )
    console.print(table)
    uses = _table("phase", "windows", "raw tokens", "epochs", "left at shard ends", "left at the switch", "dataset")
    uses.columns[-1].justify = "left"
    for phase in report.phases:
        for use in phase.datasets:
            uses.add_row(
                str(phase.phase),
                f"{use.windows:,}",
                f"{use.tokens:,}",
                f"{use.first_epoch:.3f}..{use.last_epoch:.3f}",
                f"{use.passed_over_at_ends:,}",
                f"{use.passed_over_at_switch:,}",
                table_cell(use.path),
            )
    console.print(uses)
    for phase in report.phases:
        console.print(
            f"phase {phase.phase} at {report.step_seconds:g} s a step: {phase.tokens_per_second:,.0f} tokens/s, "
            f"{phase.bytes_per_second / 1e6:,.2f} MB/s"
        )


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def preview(
    run: RunFile,
    step: Annotated[int, typer.Option(metavar="STEP", help="The step to look at.")] = 0,
    sequence: Annotated[int, typer.Option(metavar="ROW", help="The row of the step to look at.")] = 0,
    bags: Annotated[int, typer.Option(metavar="NUMBER", help="How many bags to print.")] = 16,
    json: JsonOption = False,
) -> None:
    """Print the bags of one sequence as text, and the documents that they come from.

    Example: tst-data preview wiki.yaml --step 100 --sequence 3
    """
    if bags < 1:
        raise InvalidInputError(f"--bags {bags}: expected at least 1; give the number of bags to print")
    with Plan(load_run(run)) as opened:
        shown = preview_sequence(opened, step, sequence, max_bags=bags)
    if json:
        print_json(shown.model_dump())
    else:
        _print_preview(shown)


def _print_preview(shown: Preview) -> None:
    console = output_console()
    print_line(
        f"run {shown.run}, step {shown.step}, phase {shown.phase} (bag size {shown.bag_size}, superpose "
        f"{shown.superpose}), sequence {shown.sequence}: from token {shown.first_token:,} of {shown.dataset}"
    )
    table = Table(box=None, header_style="bold")
    table.add_column("k", justify="right")
    table.add_column("reads")
    table.add_column("predicts")
    for bag in shown.bags:
        color = BAG_COLORS[bag.position % len(BAG_COLORS)]
        targets = " ".join(map(repr, bag.targets))
        table.add_row(str(bag.position), table_cell(repr(bag.inputs), color), table_cell(targets))
    console.print(table)
    if len(shown.bags) < shown.num_bags:
        console.print(f"... {shown.num_bags - len(shown.bags):,} more bags (--bags)")
    documents = Table(box=None, header_style="bold")
    for name in ("bags", "document", "source", "row", "tokens"):
        documents.add_column(name)
    for document in shown.documents:
        places = f"{document.bags[0]}..{document.bags[-1]}" if document.bags else "-"
        documents.add_row(
            places,
            table_cell(document.id),
            table_cell(document.source),
            f"{document.row:,}",
            f"{document.length:,}",
        )
    console.print(documents)


def materialize(
    run: RunFile,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="The folder to make.")],
    json: JsonOption = False,
) -> None:
    """Write the batches of a run into a folder, for training without a server.

    The folder holds MDS files, which BatchStream and a plain StreamingDataset read. After an interruption the same
    command resumes.

    Example: tst-data materialize wiki.yaml --out wiki-bagged
    """
    from tst_data.materialized.writer import materialize as write

    began = time.monotonic()
    destination = local_destination(out)
    with Plan(load_run(run)) as opened:
        total = sum(phase.batch_size * phase.steps for phase in opened.phases)
        console = Console(stderr=True)
        try:
            with (
                Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
                writing_to(destination),
            ):
                task = progress.add_task("sequences", total=total)
                written = write(opened, destination, progress=lambda rows: progress.update(task, completed=rows))
        except KeyboardInterrupt:
            raise CommandStoppedError(f"{out}: stopped; give the same command again to resume") from None
        result = {
            "run": opened.run.name,
            "fingerprint": opened.fingerprint,
            "out": out,
            "sequences": total,
            "steps": opened.num_steps,
            "written": written,
            "seconds": round(time.monotonic() - began, 3),
        }
    if json:
        print_json(result)
    elif written:
        print_note(f"wrote {total:,} sequences of {result['steps']:,} steps to {out}")
    else:
        print_note(f"{out}: already holds this run, so there is nothing to do")
