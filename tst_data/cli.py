"""The command line `tst-data`: convert, inspect and verify datasets; plan, preview and materialize runs."""

from __future__ import annotations

import sys

import typer

from tst_data.command_line import run_app
from tst_data.commands import convert as convert_cli
from tst_data.commands import run as run_cli

__all__ = ["app", "main"]

app = typer.Typer(
    name="tst-data",
    help="Documents to token shards, once; then superposed batches of any run over them. Example: "
    "tst-data convert articles/*.jsonl --tokenizer bytes --out data/wiki, then tst-data plan wiki.yaml",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
convert_cli.register(app)
run_cli.register(app)


def main() -> None:
    """Entry point of the console script."""
    run_app(app, sys.argv[1:] or ["--help"])


if __name__ == "__main__":
    main()
