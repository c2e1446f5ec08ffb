"""The runs of a server: opened once from their files, then found by name in a dictionary.

A request can name a run and nothing else, and the name is looked up here only: it never becomes a path of a file. All
runs are opened, and so checked, before a socket listens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_data.contract.description import RunDescription
from tst_data.errors import InvalidInputError, NotFoundError
from tst_data.inspection.preview import preview_sequence, sequence_documents
from tst_data.plan.plan import Plan
from tst_data.run.run_file import load_run

__all__ = ["Registry", "ServedRun", "run_files"]

RUN_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class ServedRun:
    """One run of the server, with its open plan."""

    path: Path
    plan: Plan
    description: RunDescription

    @property
    def name(self) -> str:
        return self.description.name

    def documents(self, step: int, sequence: int) -> dict[str, list[dict[str, Any]]]:
        """The documents of one sequence of a step."""
        return {"documents": [use.model_dump() for use in sequence_documents(self.plan, step, sequence)]}

    def preview(self, step: int, sequence: int) -> dict[str, Any]:
        """One sequence of a step as text."""
        return preview_sequence(self.plan, step, sequence).model_dump()

    def check_readable(self) -> None:
        """Read and verify the first window. Raises DamagedDataError, or UnavailableError."""
        self.plan.read_batch(0, 0, self.description.phases[0].batch_size)


def run_files(sources: Iterable[Path]) -> list[Path]:
    """The run files among these paths and in these folders, which are listed by name.

    Raises NotFoundError for a folder without a run file, InvalidInputError for a dataset.
    """
    files: list[Path] = []
    for source in sources:
        if not source.is_dir():
            files.append(source)
            continue
        found = sorted(path for path in source.iterdir() if path.suffix in RUN_SUFFIXES and path.is_file())
        if (source / "manifest.json").is_file():
            raise InvalidInputError(
                f"folder '{source}': is a dataset, not a folder of run files; give a run file that uses it"
            )
        if not found:
            raise NotFoundError(
                f"folder '{source}': holds no run file; expected *.yaml, *.yml or *.json at its top level"
            )
        files.extend(found)
    return files


class Registry:
    """The open runs by name."""

    def __init__(self, runs: Iterable[ServedRun]) -> None:
        self._runs = {run.name: run for run in runs}

    @classmethod
    def open(cls, sources: Iterable[Path]) -> Registry:
        """Open every run of these files and folders. Raises what `run_files`, `load_run` and `Plan` raise."""
        runs: dict[str, ServedRun] = {}
        for path in run_files(sources):
            run = load_run(path)
            if run.name in runs:
                raise InvalidInputError(
                    f"run file '{path}': the name '{run.name}' is also the name of '{runs[run.name].path}'; rename one"
                )
            plan = Plan(run)
            runs[run.name] = ServedRun(path=path, plan=plan, description=plan.describe())
        return cls(runs.values())

    def __iter__(self) -> Iterator[ServedRun]:
        return iter(self._runs.values())

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, name: object) -> bool:
        return name in self._runs

    def get(self, name: str) -> ServedRun:
        """The run of that name. Raises NotFoundError where there is none."""
        try:
            return self._runs[name]
        except KeyError:
            raise NotFoundError(f"run {name[:64]!r}: is not served here; /v1/runs lists the runs") from None

    def close(self) -> None:
        """Close every run."""
        for run in self:
            run.plan.close()
