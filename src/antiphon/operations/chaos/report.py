"""Reports of chaos runs, made from their journals: of each experiment what held, for how long it did not, and what was
done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from antiphon.operations.chaos.journal import (
    ExperimentEnd,
    ExperimentStart,
    FaultEnd,
    FaultStart,
    JournalEvent,
    MethodEnd,
    MethodStart,
    ProbeLine,
    QuestionCounts,
    RunEnd,
    RunStart,
)
from antiphon.operations.chaos.steady_state import ProbeSample, TimeSpan, outside, seconds, state_times

ChaosStatus = Literal["held", "deviated", "stopped", "unsteady", "refused", "interrupted", "under way"]
"""``held``: at every moment the steady state or the declared degraded mode, and the steady state again at the end."""


class ProbeReport(msgspec.Struct, frozen=True):
    """One probe of an experiment.

    Attributes:
        role: of the ``steady`` state or of the ``degraded`` mode.
        outside_share: of the observed time. ``moments``: when it was outside.
        worst: the value that was seen first of each of them, or the error.
    """

    probe: str
    role: Literal["steady", "degraded"]
    tolerance: str
    samples: int
    outside_seconds: float
    outside_share: float
    moments: tuple[TimeSpan, ...]
    seen: tuple[str, ...]


class FaultResult(msgspec.Struct, frozen=True):
    """One fault: what it was, what it touched, and when and why it ended (``None``: nothing says that it did).

    Attributes:
        counted: what came of it, in words, where its injector counts.
    """

    name: str
    fault: str
    touched: tuple[str, ...]
    begins: float
    ends: float | None
    reason: str
    counted: str = ""


class ExperimentResult(msgspec.Struct, frozen=True):
    """One experiment of a run; times in seconds, shares of the observed time, which begins with the first fault and
    ends with the recovery."""

    experiment: str
    title: str
    status: ChaosStatus
    reason: str
    observed: TimeSpan | None
    outside_seconds: float
    outside_share: float
    degraded_seconds: float
    broken_seconds: float
    broken: tuple[TimeSpan, ...]
    recovered_after: float | None
    degraded_mode: str
    continuous: bool
    probes: tuple[ProbeReport, ...]
    faults: tuple[FaultResult, ...]
    questions: QuestionCounts | None


class ChaosReport(msgspec.Struct, frozen=True):
    """One run: a game day of several experiments, or one of them."""

    run: str
    began_at: datetime
    ended_at: datetime | None
    principal: str
    reason: str
    tenant: str
    environment: str
    held: bool
    experiments: tuple[ExperimentResult, ...]


def report_of(events: Iterable[JournalEvent], *, runner_lives: bool) -> ChaosReport | None:
    """The report of a run's events; ``None`` where none of them begins it.

    Args:
        runner_lives: whether the process that runs it does; without it, what has no end was interrupted.
    """
    start: RunStart | None = None
    ended: float | None = None
    by_experiment: dict[str, list[JournalEvent]] = defaultdict(list)
    for event in events:
        if isinstance(event, RunStart):
            start = event
        elif isinstance(event, RunEnd):
            ended = event.at
        else:
            by_experiment[event.experiment].append(event)
    if start is None:
        return None
    found = tuple(
        _result(by_experiment[name], name, runner_lives and ended is None)
        for name in dict.fromkeys((*start.experiments, *by_experiment))
    )
    return ChaosReport(
        run=start.run,
        began_at=_moment(start.at),
        ended_at=None if ended is None else _moment(ended),
        principal=start.principal,
        reason=start.reason,
        tenant=start.tenant,
        environment=start.environment,
        held=bool(found)
        and all(one.status in ("held", "refused") for one in found)
        and any(one.status == "held" for one in found),
        experiments=found,
    )


def _result(events: Sequence[JournalEvent], name: str, under_way: bool) -> ExperimentResult:
    start = next((one for one in events if isinstance(one, ExperimentStart)), None)
    method = next((one for one in events if isinstance(one, MethodStart)), None)
    over = next((one for one in events if isinstance(one, MethodEnd)), None)
    end = next((one for one in events if isinstance(one, ExperimentEnd)), None)
    samples: dict[str, list[ProbeSample]] = defaultdict(list)
    for one in events:
        if isinstance(one, ProbeSample):
            samples[one.probe].append(one)
    steady = start.steady if start is not None else ()
    degraded = start.degraded if start is not None else None
    last = max((one.at for one in events if not isinstance(one, RunStart | RunEnd)), default=0.0)
    observed = None if method is None else TimeSpan(method.at, max(method.at, end.at if end is not None else last))
    span = observed or TimeSpan(0.0, 0.0)
    times = state_times(
        samples,
        [one.name for one in steady],
        None if degraded is None else [one.name for one in degraded],
        0.0 if start is None else start.longest,
        span,
    )
    status, reason = _status(end, seconds(times.broken), under_way)
    return ExperimentResult(
        experiment=name,
        title="" if start is None else start.title,
        status=status,
        reason=reason,
        observed=observed,
        outside_seconds=round(seconds(times.outside), 2),
        outside_share=_share(times.outside, span),
        degraded_seconds=round(seconds(times.degraded), 2),
        broken_seconds=round(seconds(times.broken), 2),
        broken=times.broken,
        recovered_after=round(end.at - over.at, 2) if end is not None and over is not None and end.recovered else None,
        degraded_mode="" if start is None else start.degraded_title,
        continuous=start is not None and start.continuous,
        probes=(
            *(_probe_result(one, "steady", samples[one.name], span) for one in steady),
            *(_probe_result(one, "degraded", samples[one.name], span) for one in degraded or ()),
        ),
        faults=_faults(events),
        questions=None if end is None else end.questions,
    )


def _status(end: ExperimentEnd | None, broken: float, under_way: bool) -> tuple[ChaosStatus, str]:
    if end is None:
        return ("under way", "") if under_way else ("interrupted", "The process that ran it ended before it.")
    match end.ended:
        case "completed" if broken > 0:
            return "deviated", f"For {broken:.1f} s neither the steady state nor a declared degraded mode held."
        case "completed" if end.recovered is False:
            return "deviated", end.reason or "The steady state was not back in time."
        case "completed":
            return "held", end.reason
        case "stopped":
            return "stopped", end.reason
        case "unsteady":
            return "unsteady", end.reason
        case "refused":
            return "refused", end.reason
    return "interrupted", end.reason


def _probe_result(
    probe: ProbeLine, role: Literal["steady", "degraded"], samples: Sequence[ProbeSample], observed: TimeSpan
) -> ProbeReport:
    spans = outside(samples, observed)
    counted = [one for one in samples if observed.begins <= one.at <= observed.ends]
    return ProbeReport(
        probe=probe.name,
        role=role,
        tolerance=probe.tolerance,
        samples=len(counted),
        outside_seconds=round(seconds(spans), 2),
        outside_share=_share(spans, observed),
        moments=spans,
        seen=tuple(_seen(samples, span) for span in spans),
    )


def _seen(samples: Sequence[ProbeSample], span: TimeSpan) -> str:
    """The worst value of a span as far as values can be compared, otherwise the first one."""
    found = [one for one in samples if not one.steady and span.begins - 1e-6 <= one.at <= span.ends]
    numbers = [one.value for one in found if isinstance(one.value, int | float) and not isinstance(one.value, bool)]
    if numbers and len(numbers) == len(found):
        return f"{max(numbers):.3g}"
    return next((one.error or str(one.value) for one in found), "")


def _faults(events: Sequence[JournalEvent]) -> tuple[FaultResult, ...]:
    ends = [one for one in events if isinstance(one, FaultEnd)]
    found = []
    for start in (one for one in events if isinstance(one, FaultStart)):
        end = next((one for one in ends if one.name == start.name and one.at >= start.at), None)
        if end is not None:
            ends.remove(end)
        found.append(
            FaultResult(
                start.name,
                start.fault,
                start.touched,
                start.at,
                None if end is None else end.at,
                "" if end is None else end.reason,
                "" if end is None else end.counted,
            )
        )
    return tuple(found)


def _share(spans: Sequence[TimeSpan], observed: TimeSpan) -> float:
    return round(seconds(spans) / observed.seconds, 4) if observed.seconds > 0 else 0.0


def markdown(report: ChaosReport) -> str:
    """The report as a document."""
    verdict = "held" if report.held else "did not hold"
    lines = [
        f"# Chaos run {report.run}",
        "",
        f"The objective, or the declared degraded mode, {verdict}. Run by {report.principal} in "
        f"{report.tenant}/{report.environment} from {_text(report.began_at)}"
        + (f" to {_text(report.ended_at)}." if report.ended_at is not None else ", not ended."),
        *(["", f"Reason: {report.reason}"] if report.reason else []),
        "",
        "| experiment | status | observed | outside of the steady state | as declared | neither | recovered after |",
        "|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(cells)} |" for cells in map(summary_cells, report.experiments)),
    ]
    for one in report.experiments:
        lines += ["", f"## {one.experiment}: {one.title}", "", f"{one.status}. {one.reason}".strip()]
        if one.degraded_mode:
            lines += ["", f"Declared degraded mode: {one.degraded_mode}."]
        if one.faults:
            lines += ["", "| fault | touched | from | to | ended because |", "|---|---|---|---|---|"]
            lines += [f"| {' | '.join(fault_cells(fault))} |" for fault in one.faults]
        if one.probes and one.observed is not None:
            lines += ["", "| probe | within | measurements | time outside | moments |", "|---|---|---|---|---|"]
            lines += [f"| {' | '.join(probe_cells(probe, one.observed))} |" for probe in one.probes]
            if not one.continuous:
                lines += ["", "The steady state was not looked at during the method: time outside is not known."]
        if one.questions is not None:
            lines += ["", question_sentence(one.questions)]
    return "\n".join(lines) + "\n"


def summary_cells(one: ExperimentResult) -> tuple[str, ...]:
    """An experiment as cells of a table."""
    observed = 0.0 if one.observed is None else one.observed.seconds
    return (
        one.experiment,
        one.status,
        f"{observed:.1f} s",
        f"{one.outside_seconds:.1f} s ({one.outside_share:.1%})",
        f"{one.degraded_seconds:.1f} s",
        f"{one.broken_seconds:.1f} s",
        "-" if one.recovered_after is None else f"{one.recovered_after:.1f} s",
    )


def fault_cells(fault: FaultResult) -> tuple[str, ...]:
    """A fault as cells of a table."""
    return (
        f"`{fault.fault}`",
        ", ".join(fault.touched) or "-",
        _clock(fault.begins),
        "not known" if fault.ends is None else _clock(fault.ends),
        "; ".join(filter(None, (fault.reason, fault.counted))) or "-",
    )


def probe_cells(probe: ProbeReport, observed: TimeSpan) -> tuple[str, ...]:
    """A probe as cells of a table; moments count from the first fault."""
    moments = "; ".join(
        f"{span.begins - observed.begins:.1f} to {span.ends - observed.begins:.1f} s ({seen})"
        for span, seen in zip(probe.moments, probe.seen, strict=True)
    )
    name = probe.probe if probe.role == "steady" else f"{probe.probe} (degraded mode)"
    return (
        name,
        probe.tolerance,
        str(probe.samples),
        f"{probe.outside_seconds:.1f} s ({probe.outside_share:.1%})",
        moments or "-",
    )


def question_sentence(counts: QuestionCounts) -> str:
    """The counts of the questions as a sentence."""
    times = (
        ""
        if counts.p50 is None
        else f" Half of the answers took {counts.p50:.2f} s or less, 95% {counts.p95:.2f} s or less."
    )
    return (
        f"Of {counts.sent} questions {counts.answered} were answered "
        f"(of these {counts.degraded} by something that stood in), {counts.refused} refused with a reason, "
        f"{counts.failed} failed, {counts.unexplained} were unexplained.{times}"
    )


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _text(at: Any) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z"


def _clock(at: float) -> str:
    return f"{_moment(at):%H:%M:%S.%f}"[:-5] + "Z"
