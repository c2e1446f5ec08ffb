"""Importing mosaicml-streaming beside the CPU build of torch.

`import streaming` imports torchvision, and the torchvision wheel of the Python package index is built for CUDA. Beside
a CPU build of torch its operator library does not load, and the import ends with "operator torchvision::nms does not
exist". It is enough to declare the two operators for which torchvision registers fake kernels; nothing here calls them.
Where torchvision can be imported as it is, nothing is declared.

The import takes about five seconds. So it is inside the functions that write MDS files, never at the top of a module.
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
"""A `torch.library.Library` takes its operators away when it is collected, so it is kept until the process ends."""


def repair_torchvision() -> None:
    """Make `import torchvision` work where its compiled operators cannot be loaded."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _libraries:
            raise
        library = importlib.import_module("torch.library").Library("torchvision", "FRAGMENT")
        for operator in _OPERATORS:
            library.define(operator)
        _libraries.append(library)
        importlib.import_module("torchvision")


def import_streaming() -> ModuleType:
    """The `streaming` package. Raises ImportError where the extra `convert` is not installed."""
    repair_torchvision()
    return importlib.import_module("streaming")
