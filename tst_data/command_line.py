"""What the three command lines share: one clear line for every error, safe output, JSON for programs, exit codes.

The exit codes: 0 for success, 1 for an error in the input or the data, 2 for a wrong option, 130 for Ctrl-C and 143 for
SIGTERM. What people read goes through `visible`, so that no name or text of a dataset can steer their terminal.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from tst_data.errors import TSTError
from tst_data.visible_text import UNSAFE, one_line, visible

__all__ = [
    "CommandStoppedError",
    "JsonOption",
    "output_console",
    "print_json",
    "print_line",
    "print_note",
    "run_app",
    "table_cell",
]

_UsageError: Any = typer.BadParameter.__base__
"""New versions of Typer contain a copy of click, and export only this subclass of its error."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
"""The option `--json` of a command."""

_PACKAGES_OF_CONVERT = {"huggingface_hub", "sentencepiece", "streaming", "tokenizers", "zstandard"}
"""Packages of the extra `convert` that the commands import where they use them."""

_STOPPED = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class CommandStoppedError(TSTError):
    """A command that Ctrl-C or SIGTERM ended, with a message that says how to resume it."""


def run_app(app: typer.Typer, arguments: list[str] | None = None) -> NoReturn:
    """Run a typer app and exit. An error that a user can cause is one line on stderr, without a stack trace."""
    command = typer.main.get_command(app)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks
    with _signals_interrupt() as received:
        try:
            result = command.main(args=arguments, standalone_mode=False)
        except _UsageError as error:
            hint = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
            _fail(f"{error.format_message()}{hint}", 2)
        except CommandStoppedError as error:
            _fail(str(error), _exit_code(received))
        except TSTError as error:
            _fail(str(error), 2 if str(error).startswith("--") else 1)  # the place is an option
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
            received.append(signal.SIGINT)
    if received:  # some versions of Typer make an exit code of KeyboardInterrupt
        _fail(_STOPPED[received[0]], _exit_code(received))
    sys.exit(result if isinstance(result, int) else 0)


def output_console() -> Console:
    """stdout for tables: as wide as the terminal, and without a terminal wide enough for every table."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)


def table_cell(text: str, style: str = "") -> Text:
    """A text of others as a cell of a table."""
    return Text(visible(text), style)


def print_line(text: str) -> None:
    """One line on stdout."""
    sys.stdout.write(visible(text) + "\n")


def print_note(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(visible(text) + "\n")


def print_json(value: Any) -> None:
    """One JSON document on stdout, for programs. It holds the true values, in escapes where a terminal would obey."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, indent=2, ensure_ascii=not is_utf8)
    # All of these are in strings, except for the line feeds of the layout; JSON has escaped control characters itself.
    text = UNSAFE.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)
    sys.stdout.write(text + "\n")


@contextmanager
def _signals_interrupt() -> Iterator[list[signal.Signals]]:
    """The signals that came so far: each raises KeyboardInterrupt, so that whatever is open is closed.

    A signal that is ignored, or that somebody else handles, is left as it is.
    """
    received: list[signal.Signals] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        raise KeyboardInterrupt

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if threading.current_thread() is not threading.main_thread():
        usual = {}
    ours = {number: handler for number, handler in usual.items() if signal.getsignal(number) == handler}
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def _exit_code(received: list[signal.Signals]) -> int:
    return 128 + (received[0] if received else signal.SIGINT)


def _fail(message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"error: {one_line(message)}\n")
    sys.exit(code)
