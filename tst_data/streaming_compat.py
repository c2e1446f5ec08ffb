"""Importing mosaicml-streaming beside the CPU build of torch.

`import streaming` imports torchvision, and the torchvision wheel of the Python package index is built for CUDA:
beside a CPU torch its operator library does not load, and the import ends with "operator torchvision::nms does
not exist". Declaring the two operators that torchvision registers fake kernels for is enough; nothing here ever
calls them. Where torchvision imports as it is, nothing is declared.

The import takes about five seconds, which is why it stands inside the functions that write MDS files, never at
the top of a module.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

__all__ = ["import_streaming", "repair_torchvision"]

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[Any] = []
"""A `torch.library.Library` withdraws its operators when it is collected: kept for the life of the process."""


def repair_torchvision() -> None:
    """Make `import torchvision` work where its compiled operators cannot be loaded."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _libraries:
            raise
        from torch.library import Library

        library = Library("torchvision", "FRAGMENT")
        for operator in _OPERATORS:
            library.define(operator)
        _libraries.append(library)
        importlib.import_module("torchvision")


def import_streaming() -> ModuleType:
    """The `streaming` package. Raises ImportError where the extra `convert` is not installed."""
    repair_torchvision()
    return importlib.import_module("streaming")
