"""A superposed batch in torch: the received windows, and inputs and targets made from them on the device.

Only windows are sent from the server and to the device: 2 bytes per token (4 for large vocabularies), where int64
inputs and targets made on the host would take 16. Both are made on `device` at first use, by slicing and one conversion
each, and kept. A batch is a Mapping with exactly the keys `inputs` and `targets`, so code that moves mappings of
tensors (Lightning, Accelerate, the Hugging Face Trainer, the pinning of a `DataLoader`) can move it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from tst_data.contract.bags import IGNORED, BagGeometry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tst_data.contract.batch import BatchHeader

__all__ = ["Batch"]

_KEYS = ("inputs", "targets")


class Batch(Mapping[str, torch.Tensor]):
    """The windows of one micro-batch of a step, as bags and targets.

    `windows` (b, A + a) is what was received, in the shard's dtype (uint16 or uint32). `dataset` (b,) and `first_token`
    (b,) are host arrays that say where each window was read: the index into the run's datasets, and the position of its
    first token in that dataset's token stream.
    """

    def __new__(cls, tensors: Mapping[str, torch.Tensor] | None = None, **_fields: Any) -> Any:
        # Code that moves a mapping rebuilds it as `type(data)({key: moved})`. A batch cannot be made from its tensors
        # alone, so the result of that call is a plain dict of them.
        return super().__new__(cls) if tensors is None else dict(tensors)

    def __init__(
        self,
        *,
        header: BatchHeader,
        windows: torch.Tensor,
        dataset: NDArray[np.uint16],
        first_token: NDArray[np.uint64],
        micro_batch: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        self.header = header
        self.windows = windows
        self.dataset = dataset
        self.first_token = first_token
        self.micro_batch = micro_batch
        self.device = torch.device(device) if device is not None else windows.device
        self.geometry = BagGeometry(
            bag_size=header.bag_size, sequence_length=header.sequence_length, superpose=header.superpose
        )
        self._on_device: torch.Tensor | None = None
        self._inputs: torch.Tensor | None = None
        self._targets: torch.Tensor | None = None

    @property
    def inputs(self) -> torch.Tensor:
        """int64 (b, L, s) bags, or (b, L, 1) tokens where only targets are superposed; on `device`."""
        if self._inputs is None:
            self._inputs = self.geometry.inputs(self._moved()).to(torch.int64).contiguous()  # (b, L, slots)
        return self._inputs

    @property
    def targets(self) -> torch.Tensor:
        """int64 (b, L, s), or (b, L, 1) where only inputs are superposed; -100: no target. On `device`."""
        if self._targets is None:
            shape = (len(self.windows), self.geometry.sequence_length, self.geometry.target_slots)
            targets = torch.full(shape, IGNORED, dtype=torch.int64, device=self.device)  # (b, L, slots)
            self.geometry.fill_targets(self._moved(), targets)
            self._targets = targets
        return self._targets

    @property
    def step(self) -> int:
        return self.header.step

    @property
    def phase(self) -> int:
        return self.header.phase

    @property
    def bag_size(self) -> int:
        return self.header.bag_size

    @property
    def superpose(self) -> str:
        return self.header.superpose

    @property
    def checksum(self) -> str:
        """xxh3_64 of the window values' bytes, 16 hex digits; it came with the batch and was verified."""
        return self.header.checksum

    @property
    def num_tokens(self) -> int:
        """Raw input tokens: b · A."""
        return len(self.windows) * self.geometry.advance

    @property
    def num_latent_positions(self) -> int:
        """Positions that the model sees: b · L."""
        return len(self.windows) * self.geometry.sequence_length

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Batch:
        """The same batch with its windows on `device`, where inputs and targets are made."""
        target = torch.device(device)
        return self._replaced(self.windows.to(target, non_blocking=non_blocking), target)

    def pin_memory(self, device: torch.device | str | int | None = None) -> Batch:
        """The same batch with its windows in page-locked memory. A `DataLoader` passes `device`; it is not used."""
        return self._replaced(self.windows.pin_memory(), self.device)

    def _replaced(self, windows: torch.Tensor, device: torch.device) -> Batch:
        moved: Batch = Batch(
            header=self.header,
            windows=windows,
            dataset=self.dataset,
            first_token=self.first_token,
            micro_batch=self.micro_batch,
            device=device,
        )
        return moved

    def _moved(self) -> torch.Tensor:
        """The windows on `device`, copied once. From pinned memory the host does not wait for the copy."""
        if self._on_device is None:
            here = self.windows.device == self.device  # then `is_pinned` would cost 0.6 ms for nothing
            self._on_device = self.windows.to(self.device, non_blocking=not here and self.windows.is_pinned())
        return self._on_device

    def __getitem__(self, key: str) -> torch.Tensor:
        if key not in _KEYS:
            raise KeyError(f"batch: has no key {key!r}; use 'inputs' or 'targets'")
        return self.inputs if key == "inputs" else self.targets

    def __iter__(self) -> Iterator[str]:
        return iter(_KEYS)

    def __len__(self) -> int:
        return len(_KEYS)

    __eq__ = object.__eq__  # by identity: tensors compare element by element
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return (
            f"Batch(step={self.step}, phase={self.phase}, micro_batch={self.micro_batch}, "
            f"bag_size={self.bag_size}, superpose={self.superpose!r}, windows={tuple(self.windows.shape)})"
        )
