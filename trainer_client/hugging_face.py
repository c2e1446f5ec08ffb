"""Importing `transformers`, and building a causal LM from its configuration.

`transformers` imports torchvision where it finds it, for image processors that no language model needs; the
torchvision that mosaicml-streaming brings does not load beside a CPU build of torch (see
`tst_data.streaming_compat`). On a trainer node without torchvision there is nothing to repair.
"""

from __future__ import annotations

import importlib.util
from types import ModuleType

__all__ = ["import_transformers"]


def import_transformers() -> ModuleType:
    """The `transformers` package, with its model classes importable."""
    if importlib.util.find_spec("torchvision") is not None:
        from tst_data.streaming_compat import repair_torchvision

        repair_torchvision()
    import transformers

    return transformers
