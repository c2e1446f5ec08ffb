"""Bag geometry: how many tokens a window holds, and how it is viewed as bags and targets.

The one place for this arithmetic (docs/concepts/token-superposition.md#window, #input, #targets and #variants), so that
plan, preview and trainer cannot disagree. The views use only slicing, `reshape` and slice assignment, so the same lines
work on numpy arrays and on torch tensors, and this module needs neither.

A window starts at token `x[0]`. With bag size `s` and sequence length `L`:

| superpose | advance A | lookahead a | inputs            | targets of position k                     |
| --------- | --------- | ----------- | ----------------- | ----------------------------------------- |
| both      | s·L       | 1           | (b, L, s) bags    | (b, L, s): x[(k+1)s .. (k+2)s-1]          |
| input     | s·L       | 1           | (b, L, s) bags    | (b, L, 1): x[(k+1)s]                      |
| output    | L         | s           | (b, L, 1) tokens  | (b, L, s): x[k+1 .. k+s]                  |

With `both` the window ends one token after its last bag, so the last position has a target in its first slot only; its
other slots keep IGNORED.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["IGNORED", "BagGeometry", "Superpose"]

Superpose = Literal["both", "input", "output"]

IGNORED = -100
"""Target id that no loss counts (the convention of `torch.nn.functional.cross_entropy`)."""


@dataclass(frozen=True, kw_only=True)
class BagGeometry:
    """The shape of one phase's windows."""

    bag_size: int
    """Tokens read or predicted at one latent position (s)."""
    sequence_length: int
    """Latent positions of a sequence (L)."""
    superpose: Superpose = "both"
    """What is superposed: inputs and targets, or only one of them."""

    @property
    def advance(self) -> int:
        """Tokens that a window reads: the distance from its start to that of the next window (A)."""
        return self.sequence_length * self.input_slots

    @property
    def lookahead(self) -> int:
        """Tokens after the advance that the last targets need (a)."""
        return self.bag_size if self.superpose == "output" else 1

    @property
    def window_length(self) -> int:
        """Tokens of one window: A + a."""
        return self.advance + self.lookahead

    @property
    def input_slots(self) -> int:
        """Tokens read at one latent position."""
        return 1 if self.superpose == "output" else self.bag_size

    @property
    def target_slots(self) -> int:
        """Tokens predicted at one latent position."""
        return 1 if self.superpose == "input" else self.bag_size

    def num_windows(self, num_tokens: Any) -> Any:
        """Windows that `num_tokens` tokens in a row hold (an int, or an array of them)."""
        fitting = (num_tokens - self.lookahead) // self.advance
        return fitting * (fitting > 0)

    def inputs(self, windows: Any) -> Any:
        """Windows (b, A + a) -> inputs (b, L, input_slots), a view."""
        return windows[:, : self.advance].reshape(-1, self.sequence_length, self.input_slots)

    def fill_targets(self, windows: Any, targets: Any) -> None:
        """Write the targets of windows (b, A + a) into `targets` (b, L, target_slots), which comes full of IGNORED."""
        s, L = self.bag_size, self.sequence_length
        if self.superpose == "output":
            for slot in range(s):
                targets[:, :, slot] = windows[:, 1 + slot : 1 + slot + L]
        elif self.superpose == "input":
            targets[:, :, 0] = windows[:, s::s]
        else:
            targets.reshape(-1, L * s)[:, : L * s - s + 1] = windows[:, s:]
