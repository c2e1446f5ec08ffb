"""The report as one HTML page that loads nothing from outside. It is made only from the content of `results.json`.

The headline of the short demo is the audit. The headline of the long one is the comparison (`comparison_page.py`), and
then the audit.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.demo import comparison_page
from benchmarks.demo.display import clock
from benchmarks.demo.settings import BASELINE, TST

__all__ = ["audit_lines", "audit_sentence", "figures_table", "gain_sentence", "render"]

GOOD, BAD = "#15803d", "#b91c1c"
EVIDENCE = "docs/concepts/results.md#on-a-small-machine"
Row = tuple[str, ...]


def render(results: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The page. `pictures` are SVG by name, as `plots.draw` returns them."""
    compared = results["comparison"]
    audit = results["audit"]
    if compared is None:
        color = GOOD if audit["passed"] else BAD
        headline = f"<p>{_audit_headline(audit)}</p><p>{_with_code(gain_sentence())}</p>"
    else:
        color = comparison_page.COLORS[compared["paired"]["verdict"]]
        headline = f"<p>{comparison_page.headline(compared)}</p><p>{_audit_headline(audit)}</p>"
    sections = [
        _curves(results, pictures),
        *([] if compared is None else [_comparison(results, pictures)]),
        _kills(results, pictures),
        _audit(audit),
        _figures(results),
        _set_up(results),
    ]
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        subtitle=_subtitle(results), headline=headline, headline_color=color, body="\n".join(sections)
    )


def audit_sentence(audit: Mapping[str, Any]) -> str:
    """The result of the audit: what was checked, and what was found."""
    runs = audit["runs"]
    checked = f"{sum(run['steps'] for run in runs):,} steps, {sum(run['windows'] for run in runs):,} windows"
    if audit["passed"]:
        return (
            f"Audit passed: {checked}; nothing lost, repeated or changed; the losses around the kills are identical "
            "to those of an undisturbed training."
        )
    return f"Audit FAILED: {checked}; the table and the lines of the audit say what is wrong."


def gain_sentence() -> str:
    """Why the short demo shows no gain, and what longer runs showed."""
    return (
        "A gain needs a longer run than this one: with as many steps for both, two studies made before this code ended "
        "at a held-out loss of 2.309 with superposition against 2.357 without (0.53M parameters, 16,000 steps) and of "
        f"2.814 against 2.850 (0.23M parameters, 14,000 steps), one seed each ({EVIDENCE}). The one kept comparison of "
        "this demo's own pipeline ended at 3.123 against 3.143 (11,600 steps, a speed-up of 1.01). At equal data "
        "superposition loses. `make demo-long` trains both at the same time and compares."
    )


def figures_table(results: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """The header and the rows of figures, for the page and the terminal: one column for each run."""
    runs = {name: results["runs"][name] for name in (TST, BASELINE) if name in results["runs"]}

    def row(name: str, key: str, form: str) -> Row:
        return (name, *(format(run[key], form) for run in runs.values()))

    rows = [
        row("held-out next-token loss, last evaluation", "held_out_loss", ".4f"),
        row("steps", "steps", ",d"),
        row("raw tokens read", "raw_tokens", ",d"),
        row("latent positions (they decide the number of operations)", "latent_positions", ",d"),
        ("wall time, kills and restarts included", *(clock(run["wall_seconds"]) for run in runs.values())),
        ("median time of a step", *(_step_times(run) for run in runs.values())),
        row("share of step time spent waiting for data, without the outage", "wait_overall", ".1%"),
        row("the same for the median step", "wait_median", ".2%"),
    ]
    if results["comparison"] is not None:
        rows += comparison_page.rows(results["comparison"])
    return ("", "TST", "baseline")[: 1 + len(runs)], rows


def _step_times(run: Mapping[str, Any]) -> str:
    """By bag size where there is more than one."""
    times = {f"s={bag_size}": f"{seconds * 1e3:.1f} ms" for bag_size, seconds in run["step_seconds"].items()}
    return ", ".join(times.values()) if len(times) == 1 else ", ".join(f"{name} {time}" for name, time in times.items())


def _subtitle(results: Mapping[str, Any]) -> str:
    each = ", compared with a baseline of as many steps" if results["comparison"] else ""
    return escape(
        f"{results['date']}: {results['parameters'] / 1e6:.2f}M parameters, {results['steps']:,} steps{each}, one "
        f"seed; {clock(results['seconds'])} minutes from corpus to report on {results['machine']['cores']} CPU cores"
    )


def _audit_headline(audit: Mapping[str, Any]) -> str:
    result, rest = audit_sentence(audit).split(":", 1)
    return f"<b>{escape(result)}</b>:{escape(rest)}"


def _curves(results: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    spike = results["spike"]
    there = f", where the baseline is at {spike['baseline']:.2f}" if "baseline" in spike else ""
    figures = [
        _figure(
            pictures["held_out"],
            "Held-out next-token loss by step",
            "Next-token loss on held-out text, always evaluated at bag size 1, on the same windows of packages that no "
            "run reads. In the superposition phase (dashed) the model learns to read bags but is asked for single "
            "tokens, so its loss is high. At the switch (dotted line) it begins to read tokens and recovers. The red "
            "crosses are the kills.",
        ),
        _figure(
            pictures["training"],
            "Bag loss of the superposition phase, and next-token loss of the recovery phase",
            "Loss of the training batches, averaged over groups of steps. A bag loss compares one set of logits with "
            "all tokens of the next bag. It cannot be compared with a next-token loss, so each has its own axes. "
            f"Next-token loss: {spike['first']:.2f} at the first step of recovery{there}; {spike['after']:.2f} after "
            f"{spike['after_steps']:,} more steps.",
        ),
    ]
    return f'<h2>The loss through the switch</h2><div class="figures">{"".join(figures)}</div>'


def _comparison(results: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    compared = results["comparison"]
    described = comparison_page.figures(compared, results["runs"])
    figures = [_figure(pictures[key], name, caption) for key, name, caption in described]
    return f"""<h2>Compared with the baseline</h2>
<p><b>Speed-up at equal loss: {escape(comparison_page.speed_up_text(compared))}</b></p>
<p>{escape(comparison_page.equal_data_text(compared))}</p><div class="figures">{"".join(figures)}</div>"""


def _kills(results: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><td class="clock">{clock(seconds)}</td><td>{escape(line)}</td></tr>'
        for seconds, line in results["events"]
    )
    figures = [
        _figure(
            pictures["kill_of_server"],
            "Bag losses around the kill of the server: recorded, taken before the kill of the trainer, undisturbed",
            "Every step around the kills. Circles: the loss in the final record. Crosses: the loss of the same steps "
            "before the trainer was killed. Line: an undisturbed trainer, from the checkpoint before both kills.",
        ),
        _figure(
            pictures["kill_of_trainer"],
            "Next-token losses around the kill of the trainer: recorded, taken before the kill, undisturbed",
            "The same after the switch. The steps with a cross were taken twice. Where the losses of a step are equal, "
            "its cross is inside its circle, on the line.",
        ),
    ]
    return f"""<h2>The kills</h2><div class="figures">{"".join(figures)}</div>
<div class="scroll"><table class="text">{rows}</table></div>"""


def _audit(audit: Mapping[str, Any]) -> str:
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
<p class="small">"Lost" and "repeated" count steps in the trainers' records. The digest is a chain over the checksums of
all batches that a trainer received, through its restarts. It is compared with the same chain over the batches that the
audit computes again from the run file and the datasets.</p>"""


def audit_lines(audit: Mapping[str, Any]) -> list[str]:
    """The comparisons of losses in words."""
    lines = []
    names = {
        "rerun": "around the kills, compared with an undisturbed trainer from the checkpoint before them",
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


def _figures(results: Mapping[str, Any]) -> str:
    header, rows = figures_table(results)
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"""<h2>Figures</h2>
<div class="scroll"><table><tr>{head}</tr>{body}</table></div>"""


def _set_up(results: Mapping[str, Any]) -> str:
    corpus, machine = results["corpus"], results["machine"]
    training, held_out = corpus["training"], corpus["held_out"]
    names = (*(f"{name}.yaml" for name in results["runs"]), "training.yaml", "results.json")
    files = ", ".join(f'<a href="{name}">{name}</a>' for name in names)
    lines = [
        f"Text: Python source of {len(training['packages'])} packages ({training['bytes'] / 1e6:.1f} MB, "
        f"{training['tokens']:,} tokens, vocabulary {corpus['vocabulary_size']:,}) to train on, and of "
        f"{len(held_out['packages'])} other packages ({held_out['bytes'] / 1e6:.1f} MB, {held_out['tokens']:,} tokens) "
        f"held out: {', '.join(held_out['packages'])}.",
        f"Machine: {machine['cores']} cores ({machine['processor']}), Python {machine['python']}, torch "
        f"{machine['torch']}, one thread for each trainer.",
    ]
    return f"""<h2>Set-up</h2>
<p>The run files, the training configuration and all figures are in the same folder as this page: {files}.</p>
<p>{"</p><p>".join(escape(line) for line in lines)}</p>
<p class="small">An independent implementation of arXiv 2605.06546, not by its authors. One seed, a very small model,
one kind of text: this says nothing about another scale.</p>"""


def _figure(svg: str, name: str, caption: str) -> str:
    """A picture with its caption. `name` is for readers who cannot see the picture."""
    return f'<figure role="img" aria-label="{escape(name)}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'


def _mark(good: bool, yes: str, no: str) -> str:
    return f'<span class="{"good" if good else "bad"}">{yes if good else no}</span>'


def _with_code(text: str) -> str:
    """Escaped, with what is between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
