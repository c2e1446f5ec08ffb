"""The report as one HTML page without anything from outside: rendered from what `results.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.demo.display import clock
from benchmarks.demo.settings import BASELINE, TST

__all__ = ["figures_table", "render"]

COLOURS = {"ahead": "#15803d", "level": "#475569", "behind": "#b45309"}
EQUAL_DATA = (
    "TST trades data for compute. At equal data it loses: in the paper, at 3B parameters, 2.676 with TST against "
    "2.640 for a baseline of 50,000 steps that read as many tokens."
)


def render(results: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The page. `pictures` are SVG texts: held_out, end, training, bags."""
    sections = [
        _figures(results),
        _held_out(results, pictures),
        _series(results, pictures),
        _data(results),
        _audit(results),
        _set_up(results),
    ]
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        subtitle=_subtitle(results),
        verdict=f"<p>{_emphasised(results['verdict'], results['paired']['verdict'])}</p>{_too_short(results)}",
        verdict_colour=COLOURS[results["paired"]["verdict"]] if not results["quick"] else COLOURS["level"],
        body="\n".join(sections),
    )


def figures_table(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of (figure, TST, baseline), as the page and the terminal show them."""
    tst, baseline = results["runs"][TST], results["runs"][BASELINE]
    speed_up, equal = results["speed_up"], results["equal_data"]

    def both(name: str, key: str, form: str) -> tuple[str, str, str]:
        return name, format(tst[key], form), format(baseline[key], form)

    reached = "not reached" if speed_up["tst_steps"] is None else f"{speed_up['tst_steps']:,.0f}"
    return [
        (
            f"held-out next-token loss, final models, {results['paired']['windows']:,} windows",
            f"{results['paired']['tst']:.4f}",
            f"{results['paired']['baseline']:.4f}",
        ),
        both("the same in the last evaluation of the curves", "held_out_loss", ".4f"),
        both("steps", "steps", ",d"),
        both("raw tokens read", "raw_tokens", ",d"),
        both("latent positions (FLOPs go with these)", "latent_positions", ",d"),
        ("wall time, kills and restarts included", clock(tst["wall_seconds"]), clock(baseline["wall_seconds"])),
        ("time of the step in the middle", _step_times(tst), _step_times(baseline)),
        both("share of step time spent waiting for data, the outage apart", "wait_overall", ".1%"),
        both("the same for the step in the middle", "wait_median", ".2%"),
        (f"steps to a held-out loss of {speed_up['loss']:.4f}", reached, f"{speed_up['baseline_steps']:,.0f}"),
        (
            f"held-out loss at equal data, {equal['raw_tokens'] / 1e6:.1f}M raw tokens",
            f"{equal['tst_loss']:.4f}",
            f"{equal['baseline_loss']:.4f}",
        ),
    ]


def _step_times(run: Mapping[str, Any]) -> str:
    """By bag size where there is more than one."""
    times = {f"s={bag_size}": f"{seconds * 1e3:.1f} ms" for bag_size, seconds in run["step_seconds"].items()}
    return ", ".join(times.values()) if len(times) == 1 else ", ".join(f"{name} {time}" for name, time in times.items())


def _subtitle(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    kind = "quick demo" if results["quick"] else "demo"
    return escape(
        f"{kind} of {results['date']}: {results['parameters'] / 1e6:.2f}M parameters, {results['steps']:,} steps each, "
        f"one seed, both at once over HTTP on {machine['cores']} CPU cores; {clock(results['seconds'])} minutes from "
        "corpus to report"
    )


def _too_short(results: Mapping[str, Any]) -> str:
    if not results["quick"]:
        return ""
    return (
        "<p><b>This was the quick demo: it shows that everything works, and is too short to show a gain.</b> On a "
        "machine like this TST needs over 6,000 steps to come out ahead; run <code>make demo</code>.</p>"
    )


def _figures(results: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(tst)}</td><td>{escape(baseline)}</td></tr>"
        for name, tst, baseline in figures_table(results)
    )
    return f"""<h2>In figures</h2>
<div class="scroll"><table><tr><th></th><th>TST</th><th>baseline</th></tr>{rows}</table></div>
<p><b>Speed-up at equal loss: {escape(speed_up_text(results))}</b></p>
<p>{escape(equal_data_text(results))}</p>"""


def speed_up_text(results: Mapping[str, Any]) -> str:
    """Steps to equal loss in one sentence."""
    found = results["speed_up"]
    if found["speed_up"] is None:
        return f"not reached: TST does not get to the baseline's final held-out loss of {found['loss']:.3f}."
    return (
        f"{found['speed_up']:.2f}x. TST is at the baseline's final held-out loss of {found['loss']:.3f} after "
        f"{found['tst_steps']:,.0f} of {found['baseline_steps']:,.0f} steps. Both learning rates fall to zero over the "
        "last fifth, so neither curve is at its best before its end, and a TST run planned shorter would do better."
    )


def equal_data_text(results: Mapping[str, Any]) -> str:
    """Loss at equal data in a few sentences, beside every speed-up."""
    equal = results["equal_data"]
    return (
        f"At equal data, {equal['raw_tokens'] / 1e6:.1f}M raw tokens, the baseline is finished at "
        f"{equal['baseline_loss']:.3f} while TST is at step {equal['tst_step']:,.0f} and at {equal['tst_loss']:.3f}, "
        f"still reading bags. {EQUAL_DATA}"
    )


def _held_out(results: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    lead = results["lead"]
    ratio = results["runs"][TST]["raw_tokens"] / results["runs"][BASELINE]["raw_tokens"]
    told = (
        "TST does not get below the baseline." if lead is None else f"TST is below the baseline from step {lead:,} on."
    )
    curves = _figure(
        pictures["held_out"],
        "Held-out next-token loss of both, by step and by raw tokens",
        "Always evaluated at bag size 1, on the same windows of packages that neither run reads. In the superposition "
        "phase (dashed) the model learns to read bags and is asked for single tokens, so its loss is high; at the "
        "switch (dotted) it begins to read tokens and recovers. By raw tokens TST lies to the right: it reads "
        f"{ratio:.1f} times as many.",
    )
    end = _figure(
        pictures["end"],
        "The second half of both curves, and their difference after the switch",
        f"The same curves closer, and what lies between them. {told}",
    )
    return f"<h2>Next-token loss on held-out text</h2>{curves}{end}"


def _series(results: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    spike = results["spike"]
    training = _figure(
        pictures["training"],
        "Next-token loss of the training batches",
        "Next-token loss of the training batches, means over stretches of steps. TST has one from the switch on: "
        f"{spike['first']:.2f} at its first step of recovery, where the baseline is at {spike['baseline']:.2f}; "
        f"{spike['after']:.2f} after {spike['after_steps']:,} more steps.",
    )
    bags = _figure(
        pictures["bags"],
        "Bag loss of the superposition phase",
        "Bag loss: one set of logits against all tokens of the next bag. It cannot be compared with a next-token "
        "loss, and has axes of its own.",
    )
    return f"<h2>Training losses</h2>{training}{bags}"


def _data(results: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td class="clock">{clock(seconds)}</td><td>{escape(line)}</td></tr>'
        for seconds, line in results["events"]
    )
    return f"""<h2>What was done to it</h2>
<div class="scroll"><table class="text">{rows}</table></div>"""


def _audit(results: Mapping[str, Any]) -> str:
    audit = results["audit"]
    rows = "".join(
        f"<tr><td>{escape(run['run'])}</td><td>{run['steps']:,}</td><td>{run['windows']:,}</td>"
        f"<td>{run['tokens']:,}</td><td>{run['lost']}</td><td>{run['repeated']}</td><td>{run['tokens_repeated']}</td>"
        f"<td>{_mark(run['digest_given'] == run['digest_planned'], 'equal', 'different')}</td></tr>"
        for run in audit["runs"]
    )
    return f"""<h2>Audit: {_mark(audit["passed"], "passed", "failed")}</h2>
<div class="scroll"><table><tr><th>run</th><th>steps</th><th>windows</th><th>raw tokens</th><th>lost</th>
<th>repeated</th><th>tokens read twice</th><th>digest of batches</th></tr>{rows}</table></div>
<p>{"</p><p>".join(escape(line) for line in audit_lines(audit))}</p>
<p class="small">Lost and repeated are steps in the trainers' records. The digest is chained over the checksums of all
batches that a trainer was given, over its restarts, and compared with the same chain over the batches worked out anew
from the run file and the datasets.</p>"""


def audit_lines(audit: Mapping[str, Any]) -> list[str]:
    """The comparisons of losses in words."""
    lines = []
    names = {
        "stretch": "around the kills, against an undisturbed trainer that went on from the checkpoint before them",
        "taken_twice": "of the steps taken twice, before the trainer was killed and after it had resumed",
    }
    for key, what in names.items():
        found = audit[key]
        word = "identical" if found["identical"] else "DIFFERENT"
        largest = "" if found["identical"] else f" (largest difference {found['largest_difference']:g})"
        lines.append(
            f"Losses {what}: {word} over {found['num_steps']:,} steps from step {found['first_step']:,}{largest}."
        )
    return lines


def _set_up(results: Mapping[str, Any]) -> str:
    corpus, machine = results["corpus"], results["machine"]
    training, held_out = corpus["training"], corpus["held_out"]
    files = ", ".join(
        f'<a href="{name}">{name}</a>' for name in ("tst.yaml", "baseline.yaml", "training.yaml", "results.json")
    )
    lines = [
        f"Text: Python sources of {len(training['packages'])} packages ({training['bytes'] / 1e6:.1f} MB, "
        f"{training['tokens']:,} tokens, vocabulary {corpus['vocabulary_size']:,}) to train on, and of "
        f"{len(held_out['packages'])} other packages ({held_out['bytes'] / 1e6:.1f} MB, {held_out['tokens']:,} tokens) "
        f"held out: {', '.join(held_out['packages'])}.",
        f"Machine: {machine['cores']} cores ({machine['processor']}), Python {machine['python']}, torch "
        f"{machine['torch']}, one thread for each trainer.",
    ]
    return f"""<h2>Set-up</h2>
<p>The two runs, the training configuration and all figures are beside this page: {files}.</p>
<p>{"</p><p>".join(escape(line) for line in lines)}</p>
<p class="small">An independent implementation of arXiv 2605.06546, not its authors'. One seed, a very small model, one
kind of text: nothing here says what happens at another scale.</p>"""


def _figure(svg: str, name: str, caption: str) -> str:
    return f'<figure role="img" aria-label="{escape(name)}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'


def _mark(good: bool, yes: str, no: str) -> str:
    return f'<span class="{"good" if good else "bad"}">{yes if good else no}</span>'


def _emphasised(sentence: str, word: str) -> str:
    return escape(sentence).replace(f" {word} ", f" <b>{word}</b> ", 1)


def table_lines(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """The rows in columns, where there is no terminal."""
    widths = [max(len(row[index]) for row in rows) for index in range(3)]
    return [f"{name:<{widths[0]}}  {tst:>{widths[1]}}  {baseline:>{widths[2]}}" for name, tst, baseline in rows]
