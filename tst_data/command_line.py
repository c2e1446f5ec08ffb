"""What the three command lines share: one clear line for every error, JSON for programs, the right exit code.

0 all is well; 1 an error in the input or the data; 2 a wrong option; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

import typer
from rich.console import Console

from tst_data.errors import TSTError

__all__ = ["output_console", "print_json", "run_app"]

_UsageError: Any = typer.BadParameter.__base__
"""Typer carries a click of its own from 0.2x on and names only this child of the class."""

_PACKAGES_OF_CONVERT = {"huggingface_hub", "streaming", "tokenizers", "zstandard"}
"""Packages of the extra `convert` that the commands import where they use them."""


def run_app(app: typer.Typer, arguments: list[str] | None = None) -> NoReturn:
    """Run a typer app and exit. Everything a user can cause ends in one line on stderr, without a stack trace."""
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
    """Where tables for people go: stdout, as wide as the terminal, or wide enough for any table where there is none."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout, for programs."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _fail(message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(code)
