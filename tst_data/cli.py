"""The command line `tst-data`: convert, inspect and verify datasets; plan, preview and materialize runs."""

from __future__ import annotations

import sys

import typer

from tst_data.command_line import run_app
from tst_data.commands import convert, dataset, run

__all__ = ["app", "main"]

app = typer.Typer(
    name="tst-data",
    help="Turn documents into token shards once, then plan, preview and materialize any run over them.\n\n"
    "Example: tst-data convert wiki/*.jsonl --tokenizer bytes --out data/wiki",
    context_settings={"max_content_width": 100},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for commands in (convert, dataset, run):
    commands.register(app)


def main() -> None:
    """Entry point of the console script."""
    run_app(app, sys.argv[1:] or ["--help"])


if __name__ == "__main__":
    main()
