"""Whether the Hugging Face Hub can be reached, asked once before its libraries are used.

Without a network these libraries retry for half a minute and print many warnings. One request of at most ten seconds
shows the same. Where it fails, they are asked only for what is in their local caches.
"""

from __future__ import annotations

from typing import Any

__all__ = ["hub_is_reachable"]


def hub_is_reachable() -> bool:
    """Whether a request reaches the Hub; False where the libraries were told to stay offline."""
    from huggingface_hub import constants, utils

    if constants.HF_HUB_OFFLINE:
        return False
    library: Any = utils  # it does not declare `get_session` as exported
    try:
        library.get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # each HTTP library, proxy and resolver raises its own kind of error
        return False
    return True
