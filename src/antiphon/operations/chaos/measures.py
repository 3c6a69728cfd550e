"""Measures of our probes as values: what is measured of a project, from outside of what is broken."""

from __future__ import annotations

from typing import Annotated

import msgspec

from antiphon.core.settings_sections import Duration


class _Measure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="func"):
    """Base of the measures; the tag is the name of the probe's function in an experiment."""


class ReadyMeasure(_Measure, frozen=True, tag="ready"):
    """The HTTP status of the gateway's ``/readyz``."""


class ErrorShareMeasure(_Measure, frozen=True, tag="error_share"):
    """Share of the questions of the last ``window`` that were not answered, or not in time; 0 to 1."""

    window: Duration = "10s"


class UnexplainedShareMeasure(_Measure, frozen=True, tag="unexplained_share"):
    """Share of the questions of the last ``window`` that got neither an answer nor an error that says why, nor lost
    their connection or their patience; 0 to 1."""

    window: Duration = "10s"


class DegradedShareMeasure(_Measure, frozen=True, tag="degraded_share"):
    """Share of the questions of the last ``window`` that something else than the release answered; 0 to 1."""

    window: Duration = "10s"


class LatencyMeasure(_Measure, frozen=True, tag="latency"):
    """Seconds from the moment at which a question was due to its answer, at a percentile of the last ``window``.

    Those without an answer count with the time that they have waited so far."""

    percentile: Annotated[float, msgspec.Meta(gt=0, le=100)] = 95.0
    window: Duration = "10s"


class ProcessStateMeasure(_Measure, frozen=True, tag="process_state"):
    """State of a process, by its name or kind: running, paused, stopped or away; of several the worst."""

    process: str


class RunsWaitingMeasure(_Measure, frozen=True, tag="runs_waiting"):
    """Number of queued runs that are due."""


class StaleViewsMeasure(_Measure, frozen=True, tag="stale_views"):
    """Number of feature views that are not fresh: stale, late, blocked, or never published."""


class StreamLagMeasure(_Measure, frozen=True, tag="stream_lag"):
    """Events that a stream's consumer is behind; of all streams the most, where none is named."""

    stream: str | None = None


class RepeatedRunsMeasure(_Measure, frozen=True, tag="repeated_runs"):
    """Number of runs of schedules that did what another run of their schedule had done for the same time: an occurrence
    of a cron line, or a period of a refresh and a view. Of those that were ordered within ``window``."""

    window: Duration = "1h"


class ExceededBudgetsMeasure(_Measure, frozen=True, tag="exceeded_budgets"):
    """Number of budgets that refuse at their limit, and were charged more than that."""


Measure = (
    ReadyMeasure
    | ErrorShareMeasure
    | UnexplainedShareMeasure
    | DegradedShareMeasure
    | LatencyMeasure
    | ProcessStateMeasure
    | RunsWaitingMeasure
    | StaleViewsMeasure
    | StreamLagMeasure
    | RepeatedRunsMeasure
    | ExceededBudgetsMeasure
)
QuestionMeasure = ErrorShareMeasure | UnexplainedShareMeasure | DegradedShareMeasure | LatencyMeasure
