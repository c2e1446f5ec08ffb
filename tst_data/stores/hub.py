"""Whether the Hugging Face Hub answers, asked once before its libraries are.

They retry for half a minute without a network, with a stack of warnings; one request of at most ten seconds tells
the same. Where there is no answer they are asked for what lies in their local caches only.
"""

from __future__ import annotations

__all__ = ["hub_answers"]


def hub_answers() -> bool:
    """Whether a request reaches the Hub; False where the libraries were told to be offline."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # whatever the HTTP library, the proxy or the resolver raise: it does not answer
        return False
    return True
