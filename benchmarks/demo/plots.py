"""The report's pictures, as SVG that needs nothing from outside.

Bag losses and next-token losses never share axes. Held-out loss is next-token loss throughout; in the superposition
phase it is that of a model which is learning to read bags, so it is drawn apart (dashed).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.demo.comparison import Curve

__all__ = ["Pictures", "binned", "draw", "draw_held_out"]

TST_COLOUR, BASELINE_COLOUR, MARK_COLOUR = "#c2410c", "#1d4ed8", "#64748b"
NUM_BINS = 240
ARROW: Any = {
    "xytext": (26, 14),
    "textcoords": "offset points",
    "color": TST_COLOUR,
    "fontsize": 9.5,
    "arrowprops": {"arrowstyle": "->", "color": TST_COLOUR, "lw": 0.9},
}
STYLE: Any = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": "white",
    "svg.hashsalt": "token-superposition",
}


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is drawn: curves of both runs, and where things happened, in steps and in raw tokens of TST."""

    tst_held_out: Curve
    baseline_held_out: Curve
    tst_training: Curve
    baseline_training: Curve
    tst_bags: Curve
    switch: int
    switch_tokens: int
    kills: tuple[tuple[int, str], ...]


def draw(pictures: Pictures) -> dict[str, str]:
    """SVG of each picture by name."""
    return {
        "held_out": _svg(lambda plot: _held_out(plot, pictures)),
        "end": _svg(lambda plot: _end(plot, pictures)),
        "training": _svg(lambda plot: _training(plot, pictures)),
        "bags": _svg(lambda plot: _bags(plot, pictures)),
    }


def draw_held_out(pictures: Pictures, form: str = "png") -> bytes:
    """The first picture by itself, as a file."""
    return _drawn(lambda plot: _held_out(plot, pictures), form)


def binned(curve: Curve, num_bins: int = NUM_BINS) -> Curve:
    """Means over equal stretches of a curve: thousands of single steps make neither a line nor a small page."""
    edges = np.unique(np.linspace(0, len(curve), min(num_bins, len(curve)) + 1).astype(int))
    if len(edges) < 2:
        return curve
    begins, counts = edges[:-1], np.diff(edges)
    mean: Callable[[NDArray[Any]], NDArray[Any]] = lambda values: np.add.reduceat(values, begins) / counts  # noqa: E731
    return Curve(
        step=mean(curve.step).astype(np.int64),
        raw_tokens=mean(curve.raw_tokens).astype(np.int64),
        loss=mean(curve.loss),
    )


def _held_out(plot: Any, pictures: Pictures) -> Any:
    figure, (by_step, by_tokens) = plot.subplots(1, 2, figsize=(11, 4.3), sharey=True, layout="constrained")
    tst, baseline, switch = pictures.tst_held_out, pictures.baseline_held_out, pictures.switch
    end_of_bags = int(np.searchsorted(tst.step, switch, side="right"))
    reading_bags, reading_tokens = slice(0, end_of_bags), slice(max(0, end_of_bags - 1), None)
    for axes, x, scale, place in (
        (by_step, "step", 1, switch),
        (by_tokens, "raw_tokens", 1e6, pictures.switch_tokens / 1e6),
    ):
        values = getattr(tst, x) / scale
        line = {"color": TST_COLOUR, "lw": 1.8}
        axes.plot(getattr(baseline, x) / scale, baseline.loss, color=BASELINE_COLOUR, lw=1.8, label="baseline")
        axes.plot(values[reading_bags], tst.loss[reading_bags], ls=(0, (3, 2)), label="TST, superposition", **line)
        axes.plot(values[reading_tokens], tst.loss[reading_tokens], label="TST, recovery", **line)
        axes.axvline(place, color=MARK_COLOUR, lw=1, ls=":")
    low, high = min(baseline.loss.min(), tst.loss.min()), baseline.loss.max()
    by_step.set_ylim(low - 0.06 * (high - low), high)
    at_switch = float(np.interp(switch, tst.step, tst.loss))
    by_step.annotate(
        f"switch at step {switch:,}:\nheld-out loss {at_switch:.2f}", (switch, min(at_switch, high)), **ARROW
    )
    for step, _ in pictures.kills:
        by_step.plot(step, low - 0.03 * (high - low), marker="x", color="#b91c1c", ms=6, mew=1.6)
    killed = ", ".join(name for _, name in pictures.kills)
    by_step.set(title="by step: the same FLOPs", ylabel="held-out next-token loss")
    by_step.set_xlabel(f"step (red crosses: {killed})" if killed else "step")
    by_tokens.set(title="by raw tokens: the same data", xlabel="raw tokens read, millions")
    by_tokens.legend()
    return figure


def _end(plot: Any, pictures: Pictures) -> Any:
    figure, (curves, differences) = plot.subplots(1, 2, figsize=(11, 3.5), layout="constrained")
    tst, baseline = pictures.tst_held_out, pictures.baseline_held_out
    half = int(baseline.step[-1]) // 2
    for curve, colour, label in ((baseline, BASELINE_COLOUR, "baseline"), (tst, TST_COLOUR, "TST")):
        part = curve.since(half)
        curves.plot(part.step, part.loss, color=colour, lw=1.8, marker="o", ms=3, label=label)
    curves.set(title="the second half, closer", xlabel="step", ylabel="held-out next-token loss")
    curves.legend()
    common, of_tst, of_baseline = np.intersect1d(tst.step, baseline.step, return_indices=True)
    behind = common > pictures.switch
    gap = (tst.loss[of_tst] - baseline.loss[of_baseline])[behind]
    differences.axhline(0, color=MARK_COLOUR, lw=1)
    differences.plot(common[behind], gap, color=TST_COLOUR, lw=1.8, marker="o", ms=3)
    if len(gap):
        reach = max(0.02, 1.3 * float(np.abs(gap[len(gap) // 4 :]).max()))
        differences.set_ylim(-reach, reach)
    differences.set(title="TST less baseline (below 0: TST is ahead)", xlabel="step")
    return figure


def _training(plot: Any, pictures: Pictures) -> Any:
    figure, axes = plot.subplots(figsize=(11, 3.5), layout="constrained")
    for curve, colour, label in (
        (pictures.baseline_training, BASELINE_COLOUR, "baseline"),
        (pictures.tst_training, TST_COLOUR, "TST, recovery"),
    ):
        part = binned(curve)
        axes.plot(part.step, part.loss, color=colour, lw=1.3, label=label)
    axes.axvline(pictures.switch, color=MARK_COLOUR, lw=1, ls=":")
    if len(pictures.tst_training):
        first = float(pictures.tst_training.loss[0])
        axes.annotate(
            f"the spike: {first:.2f} at the\nfirst step of recovery",
            (pictures.switch, min(first, float(binned(pictures.baseline_training).loss.max()))),
            **ARROW,
        )
    axes.set(xlabel="step", ylabel="next-token loss of the batch")
    axes.legend()
    return figure


def _bags(plot: Any, pictures: Pictures) -> Any:
    figure, axes = plot.subplots(figsize=(11, 2.9), layout="constrained")
    part = binned(pictures.tst_bags)
    axes.plot(part.step, part.loss, color="#7e22ce", lw=1.3)
    axes.set(xlabel="step of the superposition phase", ylabel="bag loss")
    return figure


def _svg(figure: Callable[[Any], Any]) -> str:
    text = _drawn(figure, "svg").decode()
    return text[text.index("<svg") :]


def _drawn(figure: Callable[[Any], Any], form: str) -> bytes:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plot

    buffer = io.BytesIO()
    with plot.rc_context(STYLE):
        drawn = figure(plot)
        metadata = {"Date": None} if form == "svg" else None
        drawn.savefig(buffer, format=form, dpi=110, metadata=metadata)
        plot.close(drawn)
    return buffer.getvalue()
