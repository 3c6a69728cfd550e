"""Measures that the history keeps: metrics of processes by name, with their labels, units and meaning.

A metric that is not here is shown to Prometheus and is not kept: every label of one multiplies what a year takes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from antiphon.core.errors import NotFoundError
from antiphon.core.suggestions import nearest

Kind = Literal["count", "level", "durations"]
Unit = Literal["requests", "answers", "tokens", "seconds", "bytes", "runs", "rows", "share", "state"]


class Measure(msgspec.Struct, frozen=True):
    """A measure.

    Attributes:
        name: of the metric family, without the ending of counters.
        kind: ``count``: how many since the period before. ``level``: a height over time. ``durations``: of many
            observations.
        adds_up: the levels of several processes are parts of one; otherwise each sees the whole.
        by_tenant: belongs to a tenant, the others to the platform.
    """

    name: str
    kind: Kind
    unit: Unit
    text: str
    labels: tuple[str, ...] = ()
    adds_up: bool = True
    by_tenant: bool = True

    def aligned(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """The values of its labels as a row holds them: of one that was added since, nothing is known there.

        A label is only ever added behind the others.
        """
        if len(labels) == len(self.labels):
            return labels
        return (*labels, *("" for _ in range(len(self.labels) - len(labels))))[: len(self.labels)]


_PATH = ("application", "path")

_ENGINE_COUNTS: tuple[tuple[str, Unit, str], ...] = (
    ("prefilled_tokens", "tokens", "Tokens of prompts that an engine computed."),
    ("reused_prefix_tokens", "tokens", "Tokens of prompts that were in its cache."),
    ("busy_seconds", "seconds", "Time in which an engine had work."),
    ("call_seconds", "seconds", "Time in which its model computed."),
    ("batch_held_seconds", "seconds", "Time for which other work had its batch generations held."),
)

_LIST = (
    Measure("antiphon_requests", "count", "requests", "Requests of gateways, by status.", (*_PATH, "status", "fault")),
    Measure(
        "antiphon_first_byte_seconds", "durations", "seconds", "Arrival of a request to the first byte of its answer.",
        (*_PATH, "origin"),
    ),
    Measure(
        "antiphon_answer_seconds", "durations", "seconds",
        "Arrival of a request to the last byte of its answer; of a batch row, to its whole text.", (*_PATH, "origin"),
    ),
    Measure(
        "antiphon_answers", "count", "answers", "Answers whose receipt is committed.", (*_PATH, "origin", "role")
    ),
    Measure(
        "antiphon_release_requests", "count", "requests",
        "Online requests that a release was to answer, and those that failed, were invalid, generated or late.",
        ("application", "release", "event"),
    ),
    Measure("antiphon_tokens", "count", "tokens", "Tokens of answers, by kind.", (*_PATH, "kind")),
    Measure("antiphon_engine_seconds", "count", "seconds", "Engine time of answers.", _PATH),
    Measure(
        "antiphon_saved_tokens", "count", "tokens", "Tokens that reused answers did not compute again.",
        ("application", "origin"),
    ),
    Measure(
        "antiphon_stand_ins", "count", "answers", "Answers of another engine, or from store because none answered.",
        ("application", "role"),
    ),
    Measure("antiphon_run_attempts", "count", "runs", "Attempts at runs that ended.", ("workflow", "outcome")),
    Measure("antiphon_run_attempt_seconds", "durations", "seconds", "Begin to end of an attempt.", ("workflow",)),
    Measure("antiphon_runs_under_way", "level", "runs", "Runs that workers carry out.", ("workflow",)),
    Measure("antiphon_runs_waiting", "level", "runs", "Runs that have not begun.", ("workflow",), adds_up=False),
    Measure("antiphon_batch_rows_waiting", "level", "rows", "Rows of batch jobs to be answered.", adds_up=False),
    Measure(
        "antiphon_feature_age_seconds", "level", "seconds",
        "Time since a view's values last changed or were confirmed.", ("view",), adds_up=False,
    ),
    Measure(
        "antiphon_application_stale", "level", "state",
        "1 while a feature of the application is older than its contract allows, else 0.", ("application",),
        adds_up=False,
    ),
    Measure(
        "antiphon_stream_waiting_seconds", "level", "seconds", "For how long a stream's first unread event waits.",
        ("stream",), adds_up=False,
    ),
    Measure("antiphon_denials", "count", "requests", "Requests that were not let in, by reason.", ("code",)),
    Measure("antiphon_in_flight", "level", "requests", "Requests being answered.", by_tenant=False),
    Measure(
        "antiphon_half_open_connections", "level", "requests", "Connections without a complete request head.",
        by_tenant=False,
    ),
    Measure(
        "antiphon_operation_requests", "count", "requests", "Requests of operations: lists, reports and changes.",
        by_tenant=False,
    ),
    Measure(
        "antiphon_catalog_errors", "count", "requests",
        "Statements that the catalog refuses and no retry makes good: a missing table, damage, no permission.",
        ("process",), by_tenant=False,
    ),
    Measure("antiphon_clients_departed", "count", "requests", "Callers that left before the end.", by_tenant=False),
    Measure(
        "antiphon_engine_gate", "level", "requests", "Online requests before the engines: limit, inside, waiting.",
        ("state",), by_tenant=False,
    ),
    Measure(
        "antiphon_engine_waited_seconds", "count", "seconds", "Time in which answers of the engine were waited for.",
        by_tenant=False,
    ),
    Measure(
        "antiphon_engine_way_seconds", "count", "seconds",
        "Of this time, what the engine knows nothing of: the way to it and back.", by_tenant=False,
    ),
    Measure(
        "antiphon_engine_breaker", "level", "state", "Circuit breaker of an engine: 0 closed, 1 half-open, 2 open.",
        ("engine",), adds_up=False, by_tenant=False,
    ),
    Measure(
        "antiphon_engine_requests", "level", "requests", "Requests in an engine, by state.", ("engine", "state"),
        by_tenant=False,
    ),
    Measure(
        "antiphon_engine_slots", "level", "requests", "Requests that it computes at once.", ("engine",), by_tenant=False
    ),
    Measure(
        "antiphon_engine_generated_tokens", "count", "tokens", "Tokens that an engine generated, by path.",
        ("engine", "path"), by_tenant=False,
    ),
    *(
        Measure(f"antiphon_engine_{name}", "count", unit, text, ("engine",), by_tenant=False)
        for name, unit, text in _ENGINE_COUNTS
    ),
    Measure(
        "antiphon_loop_late_seconds", "count", "seconds", "Time by which an event loop came late to its work.",
        ("process",), by_tenant=False,
    ),
    Measure(
        "process_cpu_seconds", "count", "seconds", "Processor time of a process.", ("process",), by_tenant=False
    ),
    Measure(
        "process_resident_memory_bytes", "level", "bytes", "Memory of a process.", ("process",), by_tenant=False
    ),
)  # fmt: skip

MEASURES = {measure.name: measure for measure in _LIST}


def measure_of(name: str) -> Measure:
    """The measure of a name.

    Raises:
        NotFoundError: the history keeps none of this name.
    """
    if (found := MEASURES.get(name.removesuffix("_total"))) is None:
        raise NotFoundError(
            f"The history keeps no measure {name!r}.",
            where="measure",
            next_step=nearest(name, MEASURES) or "`antiphon history` lists them.",
        )
    return found
