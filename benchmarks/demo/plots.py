"""The report's pictures: SVG for the page, and one PNG of the run for the README.

Bag losses and next-token losses never share axes. Held-out loss is always next-token loss. In the superposition phase
it belongs to a model that is learning to read bags, so that part is dashed. Each picture is narrow, so that the page
can put two side by side on a wide screen and one below the other on a phone.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.demo.comparison import Curve

__all__ = ["Kills", "Pictures", "binned", "draw", "draw_summary"]

TST_COLOR, BASELINE_COLOR, BAG_COLOR = "#c2410c", "#1d4ed8", "#7e22ce"
MARK_COLOR, KILL_COLOR = "#64748b", "#b91c1c"
NUM_BINS = 200
SIZE = (5.2, 3.6)
ARROW: Any = {
    "xytext": (22, 12),
    "textcoords": "offset points",
    "color": TST_COLOR,
    "fontsize": 9.5,
    "arrowprops": {"arrowstyle": "->", "color": TST_COLOR, "lw": 0.9},
}
STYLE: Any = {
    "font.size": 10.5,
    "axes.titlesize": 11,
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
class Kills:
    """The steps of the TST run at which server and trainer were killed, and the loss of each step around them."""

    server: int
    trainer: int
    recorded: Mapping[int, float]
    before: Mapping[int, float]
    """Of the steps that were taken before the kill and then again."""
    undisturbed: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Everything that is drawn: the curves of the runs, the switch in steps and in raw tokens of TST, the kills."""

    tst_held_out: Curve
    baseline_held_out: Curve | None
    tst_training: Curve
    baseline_training: Curve | None
    tst_bags: Curve
    switch: int
    switch_tokens: int
    kills: Kills


def draw(pictures: Pictures) -> dict[str, str]:
    """SVG of each picture by name."""
    drawn = {
        "held_out": _svg(lambda figure: _held_out(figure.subplots(), pictures)),
        "training": _svg(lambda figure: _training(figure, pictures)),
        "kill_of_server": _svg(lambda figure: _kill_of_server(figure.subplots(), pictures)),
        "kill_of_trainer": _svg(lambda figure: _kill_of_trainer(figure.subplots(), pictures)),
    }
    baseline = pictures.baseline_held_out
    if baseline is not None:
        drawn["by_tokens"] = _svg(lambda figure: _by_tokens(figure.subplots(), pictures, baseline))
        drawn["second_half"] = _svg(lambda figure: _second_half(figure, pictures, baseline))
    return drawn


def draw_summary(pictures: Pictures, audit: str) -> bytes:
    """One PNG: the held-out loss, the losses around the kills, and the result of the audit above them."""

    def summary(figure: Any) -> None:
        figure.suptitle(textwrap.fill(audit, 110), x=0.01, ha="left", fontsize=11.5, fontweight="bold", color="#1e293b")
        left, middle, right = figure.subplots(1, 3, width_ratios=(4, 3, 3))
        _held_out(left, pictures)
        _kill_of_server(middle, pictures)
        _kill_of_trainer(right, pictures)

    return _drawn(summary, (12, 4.2), "png")


def binned(curve: Curve, num_bins: int = NUM_BINS) -> Curve:
    """Means over equal groups of points: thousands of single steps are too noisy to read and make a large page."""
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


def _held_out(axes: Any, pictures: Pictures) -> None:
    tst, baseline, switch = pictures.tst_held_out, pictures.baseline_held_out, pictures.switch
    if baseline is not None:
        axes.plot(baseline.step, baseline.loss, color=BASELINE_COLOR, lw=1.8, label="baseline")
    _two_phases(axes, tst, tst.step, switch)
    axes.axvline(switch, color=MARK_COLOR, lw=1, ls=":")
    low, high = tst.loss.min() if baseline is None else min(tst.loss.min(), baseline.loss.min()), tst.loss.max()
    axes.set_ylim(low - 0.1 * (high - low), high + 0.05 * (high - low))
    at_switch = float(np.interp(switch, tst.step, tst.loss))
    axes.annotate(f"switch at step {switch:,}:\nheld-out loss {at_switch:.2f}", (switch, at_switch), **ARROW)
    marks = [pictures.kills.server, pictures.kills.trainer]
    height = low - 0.05 * (high - low)
    axes.plot(marks, [height] * 2, ls="", marker="x", color=KILL_COLOR, ms=6, mew=1.6, label="kill -9")
    axes.set(title="held-out loss through the switch", xlabel="step", ylabel="next-token loss")
    axes.legend()


def _two_phases(axes: Any, tst: Curve, values: NDArray[Any], switch: int) -> None:
    """The curve of TST, dashed up to the switch; the two parts meet there."""
    end_of_bags = int(np.searchsorted(tst.step, switch, side="right"))
    bags, tokens = slice(0, end_of_bags), slice(max(0, end_of_bags - 1), None)
    axes.plot(values[bags], tst.loss[bags], ls=(0, (3, 2)), color=TST_COLOR, lw=1.8, label="TST, superposition")
    axes.plot(values[tokens], tst.loss[tokens], color=TST_COLOR, lw=1.8, label="TST, recovery")


def _kill_of_server(axes: Any, pictures: Pictures) -> None:
    kills = pictures.kills
    _around(axes, kills, lambda step: step < pictures.switch, kills.server, "server")
    axes.set(title="around the kill of the server", xlabel="step", ylabel="bag loss")


def _kill_of_trainer(axes: Any, pictures: Pictures) -> None:
    kills = pictures.kills
    _around(axes, kills, lambda step: step >= pictures.switch, kills.trainer, "trainer")
    axes.set(title="around the kill of the trainer", xlabel="step", ylabel="next-token loss")
    axes.legend(loc="lower left")


def _around(axes: Any, kills: Kills, in_phase: Callable[[int], bool], killed: int, name: str) -> None:
    """Every step of one phase around the kills, as each trainer recorded it; a phase has its own kind of loss."""
    styles: list[tuple[Mapping[int, float], dict[str, Any]]] = [
        (kills.undisturbed, {"color": MARK_COLOR, "lw": 1.2, "label": "undisturbed"}),
        (kills.before, {"color": KILL_COLOR, "ls": "", "marker": "x", "ms": 4, "label": "before the kill"}),
        (kills.recorded, {"color": TST_COLOR, "ls": "", "marker": "o", "ms": 7, "mfc": "none", "label": "recorded"}),
    ]
    for losses, style in styles:
        steps = [step for step in sorted(losses) if in_phase(step)]
        axes.plot(steps, [losses[step] for step in steps], **style)
    axes.margins(y=0.2)
    axes.axvline(killed - 0.5, color=KILL_COLOR, lw=1, ls="--")
    axes.annotate(
        f"kill -9\n{name}",
        (killed - 0.5, 0.98),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        va="top",
        fontsize=9.5,
        color=KILL_COLOR,
    )


def _training(figure: Any, pictures: Pictures) -> None:
    """Bag losses up to the switch, next-token losses from there, each with its own axes."""
    bags, tokens = figure.subplots(1, 2, width_ratios=(2, 3))
    part = binned(pictures.tst_bags)
    bags.plot(part.step, part.loss, color=BAG_COLOR, lw=1.3)
    bags.set(title="batches: bags", xlabel="step", ylabel="bag loss")
    if pictures.baseline_training is not None:
        part = binned(pictures.baseline_training.since(pictures.switch))
        tokens.plot(part.step, part.loss, color=BASELINE_COLOR, lw=1.3, label="baseline")
    part = binned(pictures.tst_training)
    tokens.plot(part.step, part.loss, color=TST_COLOR, lw=1.3, label="TST, recovery")
    tokens.set(title="batches: tokens", xlabel="step", ylabel="next-token loss")
    tokens.legend()


def _by_tokens(axes: Any, pictures: Pictures, baseline: Curve) -> None:
    tst = pictures.tst_held_out
    axes.plot(baseline.raw_tokens / 1e6, baseline.loss, color=BASELINE_COLOR, lw=1.8, label="baseline")
    _two_phases(axes, tst, tst.raw_tokens / 1e6, pictures.switch)
    axes.axvline(pictures.switch_tokens / 1e6, color=MARK_COLOR, lw=1, ls=":")
    axes.set(title="by raw tokens: the same data", xlabel="raw tokens read, millions", ylabel="next-token loss")
    axes.legend()


def _second_half(figure: Any, pictures: Pictures, baseline: Curve) -> None:
    """The second half of both curves, and below it their difference."""
    curves, differences = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    half, tst = int(baseline.step[-1]) // 2, pictures.tst_held_out
    for curve, color, label in ((baseline, BASELINE_COLOR, "baseline"), (tst, TST_COLOR, "TST")):
        part = curve.since(half)
        curves.plot(part.step, part.loss, color=color, lw=1.8, marker="o", ms=3, label=label)
    curves.set(title="the second half, closer", ylabel="next-token loss")
    curves.legend()
    common, of_tst, of_baseline = np.intersect1d(tst.step, baseline.step, return_indices=True)
    late = common > half
    differences.axhline(0, color=MARK_COLOR, lw=1)
    differences.plot(common[late], (tst.loss[of_tst] - baseline.loss[of_baseline])[late], color=TST_COLOR, lw=1.8)
    differences.set(xlabel="step", ylabel="TST - baseline")


def _svg(picture: Callable[[Any], None]) -> str:
    text = _drawn(picture, SIZE, "svg").decode()
    return text[text.index("<svg") :]


def _drawn(picture: Callable[[Any], None], size: tuple[float, float], form: str) -> bytes:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plot

    buffer = io.BytesIO()
    with plot.rc_context(STYLE):
        figure = plot.figure(figsize=size, layout="constrained")
        picture(figure)
        figure.savefig(buffer, format=form, dpi=96, metadata={"Date": None} if form == "svg" else None)
        plot.close(figure)
    return buffer.getvalue()
