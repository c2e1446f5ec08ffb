"""Importing torchvision, and with it `streaming` and `transformers`, together with the CPU build of torch.

`streaming` imports torchvision, and so does `transformers` where it finds it. The torchvision wheel of the Python
package index is built for CUDA: with a CPU torch its compiled operators cannot be loaded, and the import fails with
"operator torchvision::nms does not exist". It is enough to declare the two operators that torchvision describes in its
module `_meta_registrations`; nothing here ever calls them.

Whether torchvision's own operators can be loaded is known only after torchvision has tried, and to declare an operator
that it loads later would break a good installation. So `repair_torchvision` puts a finder into `sys.meta_path`: when
torchvision is about to import that module, it has tried, and what is missing is declared. Until then the finder costs
a comparison of names per import, and it imports nothing. Where torchvision is not installed, it has no effect.

`import streaming` takes about five seconds, which is why it is called inside the functions that write MDS files, never
at the top of a module.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["import_streaming", "repair_torchvision"]

_DESCRIBES_OPERATORS = "torchvision._meta_registrations"
_OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class _OperatorDeclarer:
    """A finder that finds no module, but declares torchvision's missing operators just before they are described."""

    def __init__(self) -> None:
        self._library: Any = None
        """A `torch.library.Library` withdraws its operators when it is collected: kept for the life of the process."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == _DESCRIBES_OPERATORS and self._library is None:
            self._declare()

    def _declare(self) -> None:
        import torch
        from torch.library import Library

        self._library = Library("torchvision", "FRAGMENT")
        for name, schema in _OPERATORS.items():
            if not hasattr(torch.ops.torchvision, name):
                self._library.define(schema)


_declarer = _OperatorDeclarer()


def repair_torchvision() -> None:
    """Make a later `import torchvision` work where its compiled operators cannot be loaded. Imports nothing."""
    if _declarer not in sys.meta_path:
        sys.meta_path.insert(0, _declarer)


def import_streaming() -> Any:
    """The `streaming` package. Raises ImportError where the extra `convert` is not installed."""
    repair_torchvision()
    return importlib.import_module("streaming")
