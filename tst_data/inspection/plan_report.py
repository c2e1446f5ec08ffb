"""What a run needs and what it skips, as figures and warnings: the output of `tst-data plan`."""

from __future__ import annotations

from collections import defaultdict

from tst_data.configuration import Frozen
from tst_data.contract.description import PhaseDescription
from tst_data.plan.dataset_checks import overlaps
from tst_data.plan.plan import Plan
from tst_data.plan.schedule import DatasetUse

__all__ = ["DatasetReport", "PhaseReport", "PlanReport", "report_plan"]

SKIPPED_WARNING = 0.05
"""Share of skipped tokens above which the report warns."""


class DatasetReport(Frozen):
    """What one phase takes from one dataset."""

    path: str
    """Path of the dataset, as in the run file."""
    windows: int
    """Windows that the phase draws from the dataset."""
    tokens: int
    """Raw tokens that they read as input."""
    first_epoch: float
    """Where in the dataset the phase begins: 1.25 is a quarter of the way through the second epoch."""
    last_epoch: float
    """Where in the dataset the phase ends."""
    passed_over_at_ends: int
    """Tokens that are skipped at the ends of shards."""
    passed_over_at_switch: int
    """Tokens that are skipped at the switch, because the windows that an earlier phase left do not divide."""


class PhaseReport(Frozen):
    """What one phase needs."""

    phase: int
    """Number of the phase, from 0."""
    first_step: int
    """Step at which the phase begins."""
    steps: int
    """Optimizer steps of the phase."""
    bag_size: int
    """Tokens read or predicted at one latent position (s)."""
    superpose: str
    """What is superposed."""
    sequence_length: int
    """Latent positions of a sequence (L)."""
    batch_size: int
    """Sequences of a step, over all ranks (B)."""
    windows: int
    """Windows of the phase, of all datasets together."""
    tokens: int
    """Raw tokens that the phase reads as input."""
    latent_positions: int
    """Latent positions of the phase: B·L·steps."""
    passed_over: int
    """Tokens that are skipped, of all datasets together."""
    tokens_per_second: float
    """Raw tokens that a trainer asks for in a second, if a step takes it `step_seconds`."""
    bytes_per_second: float
    """Bytes of windows that it asks for in a second."""
    datasets: list[DatasetReport]
    """The datasets that the phase draws from."""


class PlanReport(Frozen):
    """What a whole run needs, and what its author should know."""

    run: str
    """Name of the run."""
    fingerprint: str
    """Identity of all batches of the run."""
    step_seconds: float
    """Seconds of one step, from which the rates are computed."""
    total_steps: int
    """Steps of all phases together."""
    total_tokens: int
    """Raw tokens that all phases together read as input."""
    total_latent_positions: int
    """Latent positions of all phases together."""
    total_passed_over: int
    """Tokens that all phases together skip."""
    phases: list[PhaseReport]
    """The phases in order."""
    warnings: list[str]
    """What the author may not have intended: repeated data, shards in two datasets, or many skipped tokens."""


def report_plan(plan: Plan, *, step_seconds: float) -> PlanReport:
    """The figures of a run, with the rates that a trainer asks for if a step takes it `step_seconds`."""
    uses = plan.schedule.uses()
    of_phase: dict[int, list[DatasetUse]] = defaultdict(list)
    for use in uses:
        of_phase[use.phase].append(use)
    phases = [_report_phase(plan, phase, of_phase[phase.phase], step_seconds) for phase in plan.phases]
    return PlanReport(
        run=plan.run.name,
        fingerprint=plan.fingerprint,
        step_seconds=step_seconds,
        total_steps=plan.num_steps,
        total_tokens=sum(phase.tokens for phase in phases),
        total_latent_positions=sum(phase.latent_positions for phase in phases),
        total_passed_over=sum(phase.passed_over for phase in phases),
        phases=phases,
        warnings=[*_overlap_warnings(plan), *(warning for use in uses for warning in _warnings(plan, use))],
    )


def _report_phase(plan: Plan, phase: PhaseDescription, uses: list[DatasetUse], step_seconds: float) -> PhaseReport:
    per_step = phase.batch_size * phase.window_length * plan.dtype.itemsize
    return PhaseReport(
        phase=phase.phase,
        first_step=phase.first_step,
        steps=phase.steps,
        bag_size=phase.bag_size,
        superpose=phase.superpose,
        sequence_length=phase.sequence_length,
        batch_size=phase.batch_size,
        windows=phase.batch_size * phase.steps,
        tokens=phase.tokens,
        latent_positions=phase.latent_positions,
        passed_over=sum(use.passed_over_at_ends + use.passed_over_at_switch for use in uses),
        tokens_per_second=phase.tokens / phase.steps / step_seconds,
        bytes_per_second=per_step / step_seconds,
        datasets=[
            DatasetReport(
                path=plan.specification.datasets[use.dataset].path,
                windows=use.windows,
                tokens=use.tokens,
                first_epoch=use.first_epoch,
                last_epoch=use.last_epoch,
                passed_over_at_ends=use.passed_over_at_ends,
                passed_over_at_switch=use.passed_over_at_switch,
            )
            for use in uses
        ],
    )


def _overlap_warnings(plan: Plan) -> list[str]:
    paths = [dataset.path for dataset in plan.specification.datasets]
    return [
        f"dataset '{paths[overlap.second]}': {overlap.shards:,} of its {plan.datasets[overlap.second].num_shards:,} "
        f"shards ({overlap.tokens:,} tokens) are in dataset '{paths[overlap.first]}' too, and are read from both; "
        "leave them out of one"
        for overlap in overlaps(plan.datasets)
    ]


def _warnings(plan: Plan, use: DatasetUse) -> list[str]:
    place = f"phase {use.phase}, dataset '{plan.specification.datasets[use.dataset].path}'"
    warnings = []
    if use.repeated:
        warnings.append(
            f"{place}: data is repeated: the phase ends {use.last_epoch:.2f} epochs into the dataset; convert more "
            "text, or plan fewer steps"
        )
    if use.passed_over_at_ends > SKIPPED_WARNING * use.begun:
        warnings.append(
            f"{place}: {use.passed_over_at_ends:,} tokens ({use.passed_over_at_ends / use.begun:.0%}) are skipped at "
            "the ends of shards; convert into longer shards, or lower bag_size or sequence_length"
        )
    num_tokens = plan.datasets[use.dataset].num_tokens
    if use.passed_over_at_switch > SKIPPED_WARNING * num_tokens:
        warnings.append(
            f"{place}: {use.passed_over_at_switch:,} tokens ({use.passed_over_at_switch / num_tokens:.0%} of the "
            "dataset) are skipped at the switch, because the windows that an earlier phase left do not divide into "
            "those of this one; choose window sizes that divide one another, or lower shuffle_group"
        )
    return warnings
