"""What a run needs and what it passes over, as figures and warnings: the answer of `tst-data plan`."""

from __future__ import annotations

from tst_data.configuration import Frozen
from tst_data.contract.description import PhaseDescription
from tst_data.plan.plan import Plan
from tst_data.plan.schedule import DatasetUse

__all__ = ["DatasetReport", "PhaseReport", "PlanReport", "report_plan"]

PASSED_OVER_WARNING = 0.05


class DatasetReport(Frozen):
    """What one phase takes from one dataset. Epochs are places in the dataset: 1.25 is a quarter into the second."""

    path: str
    windows: int
    tokens: int
    first_epoch: float
    last_epoch: float
    passed_over_at_ends: int
    passed_over_at_switch: int


class PhaseReport(Frozen):
    """One phase. `tokens` are raw tokens read as input; the rates hold at the report's seconds a step."""

    phase: int
    first_step: int
    steps: int
    bag_size: int
    superpose: str
    sequence_length: int
    batch_size: int
    windows: int
    tokens: int
    latent_positions: int
    passed_over: int
    tokens_per_second: float
    bytes_per_second: float
    datasets: list[DatasetReport]


class PlanReport(Frozen):
    run: str
    fingerprint: str
    step_seconds: float
    total_steps: int
    total_tokens: int
    total_latent_positions: int
    total_passed_over: int
    phases: list[PhaseReport]
    warnings: list[str]


def report_plan(plan: Plan, *, step_seconds: float) -> PlanReport:
    """The figures of a run, with the rates that a trainer asks for when a step takes it `step_seconds`."""
    uses = plan.schedule.uses()
    phases = [
        _report_phase(plan, phase, [use for use in uses if use.phase == phase.phase], step_seconds)
        for phase in plan.phases
    ]
    return PlanReport(
        run=plan.run.name,
        fingerprint=plan.fingerprint,
        step_seconds=step_seconds,
        total_steps=plan.num_steps,
        total_tokens=sum(phase.tokens for phase in phases),
        total_latent_positions=sum(phase.latent_positions for phase in phases),
        total_passed_over=sum(phase.passed_over for phase in phases),
        phases=phases,
        warnings=[warning for use in uses for warning in _warnings(plan, use)],
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


def _warnings(plan: Plan, use: DatasetUse) -> list[str]:
    place = f"phase {use.phase}, dataset '{plan.specification.datasets[use.dataset].path}'"
    warnings = []
    if use.repeated:
        warnings.append(
            f"{place}: data is repeated: the phase ends {use.last_epoch:.2f} epochs into the dataset; convert more "
            "text, or plan fewer steps"
        )
    if use.passed_over_at_ends > PASSED_OVER_WARNING * use.begun:
        warnings.append(
            f"{place}: {use.passed_over_at_ends:,} tokens ({use.passed_over_at_ends / use.begun:.0%}) are passed over "
            "at the ends of shards; convert into longer shards, or lower bag_size or sequence_length"
        )
    num_tokens = plan.datasets[use.dataset].num_tokens
    if use.passed_over_at_switch > PASSED_OVER_WARNING * num_tokens:
        warnings.append(
            f"{place}: {use.passed_over_at_switch:,} tokens ({use.passed_over_at_switch / num_tokens:.0%} of the "
            "dataset) are passed over at the switch, since the windows that an earlier phase left do not divide; "
            "choose window sizes that divide one another, or more and smaller shard groups"
        )
    return warnings
