"""Checkpoints: everything a training needs to go on as if nothing had happened.

A checkpoint is a folder `step-00000500`, written under another name, synced and renamed, so one that has its name
is whole. It holds

    model.safetensors   weights
    training.pt         optimizer state, and the random states of each rank; tensors only, read with weights_only
    checkpoint.json     step, stream state, each rank's digest, hyperparameters, model configuration

and nothing of it is unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tst_data.durable_files import TEMPORARY_SUFFIX, sync_folder
from tst_data.errors import DamagedDataError, InvalidInputError

__all__ = ["Checkpoint", "Checkpoints", "Position", "replace_folder"]

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a training stands, in plain values: what `checkpoint.json` holds."""

    step: int
    """Steps done; the next one has this number."""
    stream: dict[str, Any]
    digests: list[str]
    """Of each rank, in order."""
    model: dict[str, Any]
    seconds: float
    """Spent training so far, over all restarts."""
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    """What the updates were made with; nothing where the checkpoint does not say."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    position: Position

    def load_model(self, model: nn.Module) -> None:
        """Fill in the weights; tied ones are stored once. Raises DamagedDataError or InvalidInputError."""
        from safetensors import SafetensorError
        from safetensors.torch import load_model

        path = self.folder / "model.safetensors"
        try:
            load_model(model, path)
        except (SafetensorError, OSError) as error:
            raise self._damaged(path, error) from None
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise InvalidInputError(f"'{path}' does not fit the model: {reason}") from None

    def load_training(self) -> dict[str, Any]:
        """Optimizer state and random states. Raises DamagedDataError."""
        path = self.folder / "training.pt"
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise self._damaged(path, error) from None
        return state

    def _damaged(self, path: Path, error: Exception) -> DamagedDataError:
        reason = " ".join(str(error).split())[:200]
        return DamagedDataError(
            f"'{path}' cannot be read ({reason}); remove '{self.folder}' to go on from the checkpoint before it"
        )


class Checkpoints:
    """The checkpoints of one training, in one folder."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def newest(self) -> Checkpoint | None:
        """The one of the highest step, if there is any."""
        folders = self._folders()
        return _open(folders[-1]) if folders else None

    def exist(self) -> bool:
        return bool(self._folders())

    def foreign_names(self) -> list[str]:
        """What lies here and is neither a checkpoint nor one that was being written."""
        own = {*self._folders(), *self._unfinished()}
        return sorted(path.name for path in self.folder.iterdir() if path not in own)

    def save(self, position: Position, model: nn.Module, optimizer: dict[str, Any], random: dict[str, Tensor]) -> Path:
        """Write a checkpoint and remove the oldest beyond `keep`. For the first rank only."""
        from safetensors.torch import save_model

        target = self.folder / f"step-{position.step:08d}"
        staging = target.with_name(target.name + TEMPORARY_SUFFIX)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        save_model(model, str(staging / "model.safetensors"))
        torch.save({"optimizer": optimizer, "random": random}, staging / "training.pt")
        content = {"format_version": FORMAT_VERSION, **position.__dict__}
        (staging / "checkpoint.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
        replace_folder(staging, target)
        for folder in self._folders()[: -self._keep]:
            _remove(folder)
        return target

    def remove_unfinished(self) -> None:
        """What a killed process left of a checkpoint that it was writing or removing."""
        for folder in self._unfinished():
            shutil.rmtree(folder)

    def _unfinished(self) -> list[Path]:
        return list(self.folder.glob(f"step-*{TEMPORARY_SUFFIX}"))

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.name[5:].isdigit())


def replace_folder(staging: Path, target: Path) -> None:
    """Sync what was written in `staging` and give it the name `target`, in place of what is there."""
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
    """Take the name away first, so that what is half removed is not taken for whole."""
    doomed = folder.with_name(f"{folder.name}.old{TEMPORARY_SUFFIX}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _open(folder: Path) -> Checkpoint:
    path = folder / "checkpoint.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format_version")
        if version != FORMAT_VERSION:
            raise InvalidInputError(f"'{path}' has format version {version!r}; this trainer reads {FORMAT_VERSION}")
        known = {each.name for each in fields(Position)}
        return Checkpoint(folder, Position(**{name: content[name] for name in known & set(content)}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InvalidInputError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise DamagedDataError(
            f"'{path}' cannot be read ({reason}); remove '{folder}' to go on from the checkpoint before it"
        ) from None
