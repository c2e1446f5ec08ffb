"""The parts of the report that only the long demo has: TST compared with the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from benchmarks.demo.settings import BASELINE, TST

__all__ = ["COLORS", "equal_data_text", "figures", "headline", "rows", "speed_up_text"]

COLORS = {"ahead": "#15803d", "level": "#475569", "behind": "#b45309"}
WORDS = {"ahead": "better", "level": "level", "behind": "worse"}
"""The main word of the sentence of each verdict."""
EQUAL_DATA = (
    "TST trades data for compute. At equal data it loses: in the paper, at 3B parameters, 2.676 with TST against "
    "2.640 for a baseline of 50,000 steps that read as many tokens."
)


def headline(compared: Mapping[str, Any]) -> str:
    """The verdict as HTML, with its main word in bold."""
    word = WORDS[compared["paired"]["verdict"]]
    return escape(compared["verdict"]).replace(f" {word} ", f" <b>{word}</b> ", 1)


def rows(compared: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of (figure, TST, baseline)."""
    speed_up, equal, paired = compared["speed_up"], compared["equal_data"], compared["paired"]
    reached = "not reached" if speed_up["tst_steps"] is None else f"{speed_up['tst_steps']:,.0f}"
    return [
        (
            f"held-out next-token loss, final models, {paired['windows']:,} windows",
            f"{paired['tst']:.4f}",
            f"{paired['baseline']:.4f}",
        ),
        (f"steps to a held-out loss of {speed_up['loss']:.4f}", reached, f"{speed_up['baseline_steps']:,.0f}"),
        (
            f"held-out loss at equal data, {equal['raw_tokens'] / 1e6:.1f}M raw tokens",
            f"{equal['tst_loss']:.4f}",
            f"{equal['baseline_loss']:.4f}",
        ),
    ]


def speed_up_text(compared: Mapping[str, Any]) -> str:
    """Steps to equal loss, in words."""
    found = compared["speed_up"]
    if found["speed_up"] is None:
        return f"not reached: TST does not get to the baseline's final held-out loss of {found['loss']:.3f}."
    return (
        f"{found['speed_up']:.2f}x. TST reaches the baseline's final held-out loss of {found['loss']:.3f} after "
        f"{found['tst_steps']:,.0f} of {found['baseline_steps']:,.0f} steps. Both learning rates fall to zero over the "
        "last fifth, so neither curve is at its best before its end. A TST run planned shorter might do better; that "
        "was not measured."
    )


def equal_data_text(compared: Mapping[str, Any]) -> str:
    """Loss at equal data, in words. It is shown with every speed-up."""
    equal = compared["equal_data"]
    return (
        f"At equal data, {equal['raw_tokens'] / 1e6:.1f}M raw tokens, the baseline has ended at "
        f"{equal['baseline_loss']:.3f}. TST is then still in the superposition phase, at step {equal['tst_step']:,.0f} "
        f"and at {equal['tst_loss']:.3f}. "
        f"{EQUAL_DATA}"
    )


def figures(compared: Mapping[str, Any], runs: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Each picture's key, its name, and its caption."""
    lead = compared["lead"]
    ratio = runs[TST]["raw_tokens"] / runs[BASELINE]["raw_tokens"]
    below = "TST does not get below the baseline." if lead is None else f"TST is below the baseline from step {lead:,}."
    return [
        (
            "by_tokens",
            "Held-out next-token loss by raw tokens",
            f"Held-out loss by raw tokens. TST is to the right of the baseline, because it reads {ratio:.1f} times as "
            "many.",
        ),
        (
            "second_half",
            "The second half of both curves, and their difference",
            f"The second half of the curves by step, and their difference; below zero TST is ahead. {below}",
        ),
    ]
