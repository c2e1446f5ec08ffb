"""Sections of a command line: usage, what each command does, its options. The words are those of `--help`.

Typer carries a click of its own in some versions, so nothing here names a class of click: both have what is used.
"""

from __future__ import annotations

import re
from typing import Any

import typer
from field_tables import cell

__all__ = ["command_sections"]


def command_sections(program: str, app: typer.Typer) -> str:
    """Markdown: a section for each command of a program, or the one section of a program without commands."""
    command: Any = typer.main.get_command(app)
    if not hasattr(command, "commands"):
        return _body(program, command)
    return "\n\n".join(
        f"### {program} {name}\n\n{_body(f'{program} {name}', child)}" for name, child in command.commands.items()
    )


def _body(program: str, command: Any) -> str:
    context = command.make_context(program, [], resilient_parsing=True)
    usage = " ".join([program, *command.collect_usage_pieces(context)])
    what, _, example = command.help.partition("Example: ")
    code = f"{usage}\n\n# example\n{' '.join(example.split())}" if example else usage
    records = [parameter.get_help_record(context) for parameter in command.params]
    rows = ["| argument or option | meaning |", "| --- | --- |"]
    rows += [f"| `{_without_type(record[0])}` | {cell(record[1])} |" for record in records if record]
    return "\n\n".join([what.strip(), f"```\n{code}\n```", "\n".join(rows)])


def _without_type(names: str) -> str:
    """`DATASET` of `DATASET <path>`: some versions of typer add the type to a name of ours."""
    return re.sub(r"^([A-Z_]+) <.*", r"\1", names)
