"""What the three command lines share: one clear line for every error, JSON for programs, and the exit codes.

The exit codes: 0 for success, 1 for an error in the input or the data, 2 for a wrong option, 130 for an interruption.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from tst_data.errors import TSTError

__all__ = ["JsonOption", "output_console", "print_json", "run_app"]

_UsageError: Any = typer.BadParameter.__base__
"""New versions of Typer contain a copy of click, and export only this subclass of its error."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
"""The option `--json` of a command."""

_PACKAGES_OF_CONVERT = {"huggingface_hub", "sentencepiece", "streaming", "tokenizers", "zstandard"}
"""Packages of the extra `convert` that the commands import where they use them."""


def run_app(app: typer.Typer, arguments: list[str] | None = None) -> NoReturn:
    """Run a typer app and exit. An error that a user can cause is one line on stderr, without a stack trace."""
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, standalone_mode=False)
    except _UsageError as error:
        hint = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        _fail(f"{error.format_message()}{hint}", 2)
    except TSTError as error:
        _fail(str(error), 1)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        place = f"'{error.filename}': " if error.filename is not None else ""
        _fail(f"{place}{error.strerror or error}", 1)
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES_OF_CONVERT:
            raise
        _fail(f"{error.name}: is not installed; install it with: pip install 'token-superposition[convert]'", 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    sys.exit(result if isinstance(result, int) else 0)


def output_console() -> Console:
    """stdout for tables: as wide as the terminal, and without a terminal wide enough for every table."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout, for programs."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _fail(message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(code)
