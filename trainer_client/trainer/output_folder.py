"""The output folder of a training: nobody else's files, and one process at a time.

Before anything is written the folder is looked at: it is empty, or what it holds was begun by this training. A
checkpoint says so, and before there is one the fingerprint that `metrics.jsonl` begins with. Anything else is
refused by name, for a training that starts drops metrics and replaces the model.

The first rank holds an flock on a file `lock` in the folder for the life of the run. The kernel lets go of it with
the process, however that ends, so a lock file that a `kill -9` left behind keeps nobody out.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from trainer_client.trainer.checkpoint import Checkpoints
from trainer_client.trainer.metrics_log import FILE_NAME as METRICS
from tst_data.durable_files import TEMPORARY_SUFFIX, FileLock
from tst_data.errors import ForeignDataError, InvalidInputError

__all__ = ["REPORT", "OutputFolder"]

LOCK = "lock"
REPORT = "report.json"
UNTOUCHED = {LOCK, METRICS + TEMPORARY_SUFFIX}
"""What a training may have left that was killed before its first record."""
BEGUN = {*UNTOUCHED, METRICS, "tensorboard", "checkpoints"}
"""What one may have left that was killed before its first checkpoint."""


class OutputFolder:
    """Where one training writes, once `claim` has given it to this process."""

    def __init__(self, path: Path, checkpoints: Checkpoints) -> None:
        self.path = path
        self._checkpoints = checkpoints
        self._made: list[Path] = []
        self._lock = FileLock(path / LOCK)

    def claim(self, fingerprint: str) -> None:
        """Make the folder, and lock it for the training of the data with this fingerprint.

        Raises ForeignDataError for results of other data, InvalidInputError for what no training left there or
        where another process is at work.
        """
        self._check(fingerprint)
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self._made = missing
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            if not self._lock.take():
                raise InvalidInputError(
                    f"another process is training into '{self.path}'; wait for it, stop it, or choose another --output"
                )
            self._check(fingerprint)  # another process may have come and gone since the first look
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let other processes in; a folder that was made and not used is taken away again."""
        self._lock.release(remove=True)
        with suppress(OSError):  # not empty: it was used
            for folder in self._made:
                folder.rmdir()
        self._made = []

    def _check(self, fingerprint: str) -> None:
        """Raise for a folder that holds something which is not of this training."""
        if self.path.exists() and not self.path.is_dir():
            raise InvalidInputError(f"output '{self.path}' is a file; choose a folder with --output")
        names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        for name, found in ((METRICS, self._fingerprint_of_metrics()), (REPORT, self._fingerprint_of_report())):
            if found is not None and found != fingerprint:
                raise ForeignDataError(
                    f"'{self.path / name}' is of data with fingerprint {found}, this run has {fingerprint}; "
                    "choose another --output"
                )
        if self._checkpoints.exist():
            return
        foreign = names - (BEGUN if METRICS in names else UNTOUCHED)
        if not foreign and "checkpoints" in names:
            foreign = {f"checkpoints/{name}" for name in self._checkpoints.foreign_names()}
        if foreign:
            raise InvalidInputError(
                f"output folder '{self.path}' holds '{min(foreign)}' and no checkpoint of this training to go on "
                "from; choose another --output, or move it away"
            )

    def _fingerprint_of_metrics(self) -> str | None:
        """Of the data that the metrics are of; none where nothing was recorded."""
        try:
            with (self.path / METRICS).open(encoding="utf-8", errors="replace") as file:
                first = file.readline()
        except FileNotFoundError:
            return None
        return _fingerprint(first) if first else None

    def _fingerprint_of_report(self) -> str | None:
        try:
            return _fingerprint((self.path / REPORT).read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            return None


def _fingerprint(text: str) -> str:
    """The fingerprint that a JSON text names."""
    try:
        return str(json.loads(text)["fingerprint"])
    except (ValueError, KeyError, TypeError):
        return "unknown"
