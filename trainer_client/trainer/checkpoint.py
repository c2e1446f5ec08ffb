"""Checkpoints: all that a training needs to resume as if nothing had happened.

A checkpoint is a folder `step-00000500`. It is written under another name, synced and renamed, so a folder with this
name is whole. It contains

    model.safetensors   weights
    training.pt         optimizer state, and the random states of all ranks; tensors only, read with weights_only
    checkpoint.json     step, stream state, each rank's digest, hyperparameters, model configuration (`TrainingState`)
    hashes.json         xxh3_128 of the other three files

A file's hash is compared before the file is loaded, because neither safetensors nor torch would notice a flipped bit in
a weight. Nothing in it can run code: training.pt is read with weights_only.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer_client.trainer.training_state import TrainingState
from tst_data.durable_files import TEMPORARY_SUFFIX, hash_bytes, hash_file, sync_folder
from tst_data.errors import DamagedDataError, InvalidInputError, TSTError, UnavailableError

__all__ = ["Checkpoint", "Checkpoints", "replace_folder", "saving_to"]

FORMAT_VERSION = 2

_MODEL, _TRAINING, _STATE = _FILES = "model.safetensors", "training.pt", "checkpoint.json"
_HASHES = "hashes.json"

_SMALL_ROOM = 1 << 20
"""A disk with less free space than this is called full, because the libraries do not say why they could not write."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    state: TrainingState

    def load_model(self, model: nn.Module) -> None:
        """Load the weights into a model; tied ones are stored once.

        Raises DamagedDataError, UnavailableError, or InvalidInputError where they do not fit the model.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_model

        path = self.folder / _MODEL
        _verify(path)
        try:
            with _reading(path):
                load_model(model, path)
        except SafetensorError as error:
            raise _damaged(path, f"cannot be read ({error})") from None
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise InvalidInputError(
                f"'{path}': does not fit the model ({reason}); resume with the model that was saved"
            ) from None

    def load_training(self) -> dict[str, Any]:
        """Optimizer state and random states. Raises DamagedDataError or UnavailableError."""
        path = self.folder / _TRAINING
        _verify(path)
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever the unpickler says of objects that are no tensors
            reason = " ".join(str(error).split())[:200]
            raise _damaged(path, f"cannot be read ({reason})") from None
        return state


class Checkpoints:
    """The checkpoints of one training, in one folder."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def newest(self) -> Checkpoint | None:
        """The checkpoint with the highest step; None where there is no checkpoint."""
        folders = self._folders()
        return _open(folders[-1]) if folders else None

    def exist(self) -> bool:
        return bool(self._folders())

    def foreign_names(self) -> list[str]:
        """Names in the folder that are neither a checkpoint nor one that was being written."""
        own = {*self._folders(), *self._unfinished()}
        return sorted(path.name for path in self.folder.iterdir() if path not in own)

    def save(
        self, state: TrainingState, model: nn.Module, optimizer: dict[str, Any], random: dict[str, Tensor]
    ) -> Path:
        """Write a checkpoint, then remove all but the newest `keep`. For the first rank only."""
        from safetensors.torch import save_model

        target = self.folder / f"step-{state.step:08d}"
        staging = target.with_name(target.name + TEMPORARY_SUFFIX)
        shutil.rmtree(staging, ignore_errors=True)
        with saving_to(staging):
            staging.mkdir(parents=True)
            save_model(model, str(staging / _MODEL))
            torch.save({"optimizer": optimizer, "random": random}, staging / _TRAINING)
            content = {"format_version": FORMAT_VERSION, **vars(state)}
            (staging / _STATE).write_text(json.dumps(content, indent=2), encoding="utf-8")
            hashes = {name: hash_file(staging / name) for name in _FILES}
            (staging / _HASHES).write_text(json.dumps(hashes, indent=2), encoding="utf-8")
            replace_folder(staging, target)
        for folder in self._folders()[: -self._keep]:
            _remove(folder)
        return target

    def remove_unfinished(self) -> None:
        """Remove what a killed process left of a checkpoint that it was writing or removing."""
        for folder in self._unfinished():
            shutil.rmtree(folder)

    def _unfinished(self) -> list[Path]:
        return list(self.folder.glob(f"step-*{TEMPORARY_SUFFIX}"))

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.name[5:].isdigit())


@contextmanager
def saving_to(staging: Path) -> Iterator[None]:
    """Turn errors of writing the folder `staging` into one line, and remove what was written of it."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for a full disk
        room = shutil.disk_usage(staging.parent).free if staging.parent.exists() else 0
        shutil.rmtree(staging, ignore_errors=True)
        strerror = error.strerror if isinstance(error, OSError) else None
        reason = "no space is left" if room < _SMALL_ROOM else strerror or " ".join(str(error).split())[:200]
        raise TSTError(
            f"'{staging.with_suffix('')}': cannot be saved ({reason}); correct that, then give the same command again "
            "to resume"
        ) from error


def replace_folder(staging: Path, target: Path) -> None:
    """Sync what was written in `staging` and rename it to `target`, which is replaced."""
    for file in staging.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    sync_folder(staging)
    if target.exists():
        _remove(target)
    staging.rename(target)
    sync_folder(target.parent)


def _remove(folder: Path) -> None:
    """Rename the folder first, so that a half removed one is not taken for a whole one."""
    doomed = folder.with_name(f"{folder.name}.old{TEMPORARY_SUFFIX}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _verify(path: Path) -> None:
    """Raise DamagedDataError unless a file of a checkpoint is the one that was saved."""
    with _reading(path):
        found = hash_file(path)
    _compare(path, found)


def _compare(path: Path, found: str) -> None:
    hashes = path.parent / _HASHES
    with _reading(hashes):
        data = hashes.read_bytes()
    try:
        expected = json.loads(data)[path.name]
    except (ValueError, KeyError, TypeError):
        raise _damaged(hashes) from None
    if found != expected:
        raise _damaged(path)


def _open(folder: Path) -> Checkpoint:
    path = folder / _STATE
    with _reading(path):
        data = path.read_bytes()
    version = _format_version(data)
    if version is not None and version < FORMAT_VERSION:  # those had no hashes
        raise InvalidInputError(
            f"'{path}': has format version {version}, expected {FORMAT_VERSION}; resume with the version of this "
            "package that saved it"
        )
    _compare(path, hash_bytes(data))
    try:
        content = json.loads(data)
        known = {each.name for each in fields(TrainingState)}
        return Checkpoint(folder, TrainingState(**{name: content[name] for name in known & set(content)}))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path) from None


def _format_version(data: bytes) -> int | None:
    try:
        version = json.loads(data)["format_version"]
    except (ValueError, KeyError, TypeError):
        return None
    return version if isinstance(version, int) else None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A file that is missing is damage. Other errors may pass: the data is unavailable."""
    try:
        yield
    except FileNotFoundError:
        raise _damaged(path, "is missing") from None
    except OSError as error:
        raise UnavailableError(
            f"'{path}': cannot be read now ({error.strerror}); correct that, then give the same command again"
        ) from None


def _damaged(path: Path, problem: str = "is not what was saved") -> DamagedDataError:
    folder = path.parent
    names = [other.name for other in folder.parent.glob("step-*") if other.name[5:].isdigit()]
    before = max((name for name in names if name < folder.name), default=None)
    remedy = f"to resume from '{before}'" if before else "and begin again in another --output: there is none before it"
    return DamagedDataError(f"'{path}': {problem}; remove '{folder}' {remedy}")
