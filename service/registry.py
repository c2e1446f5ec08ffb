"""The runs a server hands out, opened once from their files and found by name in a dictionary.

Everything a request can name is looked up here and nowhere else: a run's name in a URL never becomes a path. All
runs are opened, and so validated, before a socket listens.
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
    """One run, open."""

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
        """Read and verify the first window; raises DamagedDataError where its piece is damaged."""
        self.plan.read_batch(0, 0, self.description.phases[0].batch_size)


def run_files(sources: Iterable[Path]) -> list[Path]:
    """Run files, those of folders in the order of their names; NotFoundError where there is none."""
    files: list[Path] = []
    for source in sources:
        if not source.is_dir():
            files.append(source)
            continue
        found = sorted(path for path in source.iterdir() if path.suffix in RUN_SUFFIXES and path.is_file())
        if (source / "manifest.json").is_file():
            raise InvalidInputError(f"'{source}' is a dataset, not a folder of run files; give a run that uses it")
        if not found:
            raise NotFoundError(f"no run file in '{source}'; expected *.yaml, *.yml or *.json at its top level")
        files.extend(found)
    return files


class Registry:
    """Open runs by name."""

    def __init__(self, runs: Iterable[ServedRun]) -> None:
        self._runs = {run.name: run for run in runs}

    @classmethod
    def open(cls, sources: Iterable[Path]) -> Registry:
        """Open every run of the sources; raises what `load_run` and `Plan` raise, naming the file."""
        runs: dict[str, ServedRun] = {}
        for path in run_files(sources):
            run = load_run(path)
            if run.name in runs:
                raise InvalidInputError(
                    f"two runs are called {run.name!r}: '{runs[run.name].path}' and '{path}'; rename one"
                )
            plan = Plan(run)
            runs[run.name] = ServedRun(path=path, plan=plan, description=plan.describe())
        return cls(runs.values())

    def __iter__(self) -> Iterator[ServedRun]:
        return iter(self._runs.values())

    def __contains__(self, name: object) -> bool:
        return name in self._runs

    def get(self, name: str) -> ServedRun:
        """The run of that name; NotFoundError otherwise."""
        try:
            return self._runs[name]
        except KeyError:
            raise NotFoundError(f"no run {name[:64]!r} here; /v1/runs lists the runs") from None

    def close(self) -> None:
        for run in self:
            run.plan.close()
