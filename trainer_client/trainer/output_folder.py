"""The output folder of a training: only its own files, and one process at a time.

The folder is checked before anything is written. It must be empty, or its content must be of this training: a
checkpoint shows that, whose batches are the first ones of the run; before the first checkpoint it is the fingerprint in
`metrics.jsonl`. Anything else is refused by name, because a training that starts drops metrics and replaces the model.

The first rank holds a lock on the file `lock` in the folder until the run ends. The kernel releases it with the
process, also after a `kill -9`, so a lock file that is left in the folder keeps nobody out.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from trainer_client.stream.stream_state import check_state
from trainer_client.trainer.checkpoint import Checkpoint, Checkpoints
from trainer_client.trainer.metrics_log import FILE_NAME as METRICS
from trainer_client.trainer.process_group import ProcessGroup
from tst_data.contract.description import RunDescription
from tst_data.durable_files import TEMPORARY_SUFFIX, FileLock
from tst_data.errors import ForeignDataError, InvalidInputError, TSTError

__all__ = ["REPORT", "OutputFolder"]

LOCK = "lock"
REPORT = "report.json"
UNTOUCHED = {LOCK, METRICS + TEMPORARY_SUFFIX}
"""What is in the folder of a training that was killed before its first record."""
BEGUN = {*UNTOUCHED, METRICS, "tensorboard", "checkpoints"}
"""What is in the folder of a training that was killed before its first checkpoint."""


class OutputFolder:
    """The folder that one training writes to, after `claim`."""

    def __init__(self, path: Path, checkpoints: Checkpoints) -> None:
        self.path = path
        self._checkpoints = checkpoints
        self._made: list[Path] = []
        self._lock = FileLock(path / LOCK)

    def claim(self, run: RunDescription, group: ProcessGroup) -> None:
        """Take the folder for a training of this run. The first rank takes it for all.

        Raises ForeignDataError for results of other data, and InvalidInputError for other files or where another
        process uses the folder. If the first rank cannot take the folder, every rank raises.
        """
        refusal: TSTError | None = None
        if group.is_first:
            try:
                self._take(run)
            except TSTError as error:
                refusal = error
        if group.any(refusal is not None):
            raise refusal or InvalidInputError(
                f"output '{self.path}': the first rank cannot use it; see the message of the first rank"
            )

    def _take(self, run: RunDescription) -> None:
        """Make the folder and lock it."""
        self._check(run)
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self._made = missing
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            if not self._lock.take():
                raise InvalidInputError(
                    f"output '{self.path}': another process is training into it; wait for it, stop it, or choose "
                    "another --output"
                )
            self._check(run)  # another process may have used it since the first check
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let other processes use the folder. A folder that was made and not used is removed."""
        self._lock.release(remove=True)
        with suppress(OSError):  # not empty, so it was used
            for folder in self._made:
                folder.rmdir()
        self._made = []

    def _check(self, run: RunDescription) -> None:
        """Raise for a folder with anything that is not of this training."""
        if self.path.exists() and not self.path.is_dir():
            raise InvalidInputError(f"output '{self.path}': is a file; choose a folder with --output")
        names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        newest = self._checkpoints.newest()
        ours = {run.fingerprint}
        if newest is not None:
            ours.add(_checked_fingerprint(newest, run))
        for name, found in ((METRICS, self._fingerprints_of_metrics()), (REPORT, self._fingerprint_of_report())):
            if found and ours.isdisjoint(found):
                raise ForeignDataError(
                    f"'{self.path / name}': belongs to data with fingerprint {found[0]}, but this run has "
                    f"{run.fingerprint}; choose another --output"
                )
        if newest is not None:
            return
        foreign = names - (BEGUN if METRICS in names else UNTOUCHED)
        if not foreign and "checkpoints" in names:
            foreign = {f"checkpoints/{name}" for name in self._checkpoints.foreign_names()}
        if foreign:
            raise InvalidInputError(
                f"output '{self.path}': has '{min(foreign)}' and no checkpoint of this training; choose another "
                "--output, or move the files away"
            )

    def _fingerprints_of_metrics(self) -> list[str]:
        """Of the runs that the metrics belong to: where the training began, and each time it resumed."""
        try:
            lines = (self.path / METRICS).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [_fingerprint(line) for line in lines[:1] + [line for line in lines[1:] if '"fingerprint"' in line]]

    def _fingerprint_of_report(self) -> list[str]:
        try:
            return [_fingerprint((self.path / REPORT).read_text(encoding="utf-8", errors="replace"))]
        except FileNotFoundError:
            return []


def _checked_fingerprint(checkpoint: Checkpoint, run: RunDescription) -> str:
    """The fingerprint of the run that a checkpoint was saved in, if this run continues it. Raises as `check_state`."""
    try:
        check_state(checkpoint.state.stream, run, "this run", place=f"'{checkpoint.folder}'")
    except TSTError as error:
        raise type(error)(f"{error}, or choose another --output") from None
    return str(checkpoint.state.stream["fingerprint"])


def _fingerprint(text: str) -> str:
    """The fingerprint in a JSON object; "unknown" where there is none."""
    try:
        return str(json.loads(text)["fingerprint"])
    except (ValueError, KeyError, TypeError):
        return "unknown"
