"""Measurements of this gateway: Prometheus series, and the last answers for the dashboard.

Seconds are wall seconds from the request's arrival: ``first_byte`` to the first byte sent, ``total`` to the last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from antiphon.catalog.features.skew_reports import ViewSkew
from antiphon.catalog.serving.receipt import STAND_IN_ROLES
from antiphon.core.circuit_breaker import BreakerStatus
from antiphon.core.logs import without_credentials
from antiphon.engine.api.messages import EngineLoad
from antiphon.features.streaming.consumer import StreamStatus
from antiphon.serving.admission.engine_gate import GateStatus

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

STATES = ("closed", "half-open", "open")
"""Of a breaker, as numbered in the metrics."""

MOST_APPLICATIONS = 1_000
"""Names that get a label of their own; whatever comes after them is counted together as :data:`OTHERS`."""
OTHERS = "others"


class AnswerMeasurement(msgspec.Struct, frozen=True):
    """One answered or failed request; ``at`` is monotonic seconds at its end, ``first_byte`` is ``None`` on failure."""

    at: float
    tenant: str
    application: str
    origin: str
    status: int
    first_byte: float | None
    total: float


class Percentiles(msgspec.Struct, frozen=True):
    """Of ``count`` answers, in seconds; ``None`` when there was none."""

    count: int
    failed: int
    first_byte_p50: float | None
    first_byte_p99: float | None
    total_p50: float | None
    total_p90: float | None
    total_p99: float | None


class GatewayMetrics:
    """Counts and times requests of one gateway process.

    A label is made only for an application the gateway knows, so that a caller cannot fill the memory with names.
    """

    def __init__(self, capacity: int = 8_192) -> None:
        self._recent: deque[AnswerMeasurement] = deque(maxlen=capacity)
        self._labels: set[str] = set()
        self._statuses: set[str] = set()
        registry = self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        labels = ("application", "path", "origin")
        seconds = partial(Histogram, labelnames=labels, registry=registry, buckets=BUCKETS)
        self._first_byte = seconds("antiphon_first_byte_seconds", "Arrival to first byte.")
        self._total = seconds("antiphon_answer_seconds", "Arrival to last byte.")
        self._requests = counter("antiphon_requests", "Requests by status.", ("application", "path", "status"))
        self._tokens = counter("antiphon_tokens", "Tokens by kind.", ("application", "path", "kind"))
        self._engine = counter("antiphon_engine_seconds", "Engine seconds of answers.", ("application", "path"))
        self._saved = counter(
            "antiphon_saved_tokens", "Tokens that reused answers did not compute again.", ("application", "origin")
        )
        self._stand_ins = counter(
            "antiphon_stand_ins",
            "Answers of another engine (fallback) or from store because none answered (degraded).",
            ("application", "role"),
        )
        engine = ("engine",)
        self._breaker = gauge("antiphon_engine_breaker", "0 closed, 1 half-open, 2 open.", engine)
        self._breaker_failed = gauge("antiphon_engine_failed_requests", "Since the start of this process.", engine)
        self.in_flight = gauge("antiphon_in_flight", "Requests being answered.")
        self.departed = counter("antiphon_clients_departed", "Clients that left before their answer's end.")

        stream, views = ("stream",), ("stream", "view")
        self._lag = gauge("antiphon_stream_lag_events", "Events not yet applied.", stream)
        self._lag_seconds = gauge("antiphon_stream_lag_seconds", "Since when the first of them waits.", stream)
        self._behind = gauge("antiphon_follower_behind_seconds", "Age of what a followed place was read to.", stream)
        self._refused = gauge("antiphon_follower_refused_rows", "Rows of a followed place that are no events.", stream)
        self._watermark = gauge("antiphon_stream_watermark_seconds", "Greatest event time seen.", views)
        self._late = gauge("antiphon_stream_late_events", "Events out of order.", views)
        self._batches = gauge("antiphon_batches", "Batches of requests by status.", ("status",))
        self._file_bytes = gauge("antiphon_file_bytes", "What stored files come to.")
        self._rejected = gauge("antiphon_stream_rejected_events", "Events without keys.", views)

        self._instance = gauge("antiphon_engine_instance_up", "1 for a joined engine that answers, else 0.", engine)
        self._inside = gauge("antiphon_engine_instance_requests", "In it, by state.", ("engine", "state"))

        self._gate = gauge("antiphon_engine_gate", "Online requests: limit, inside the engine, waiting.", ("state",))
        self._drain = gauge("antiphon_engine_drain_per_second", "Requests that come out while it is full.")

        self._connections = gauge("antiphon_catalog_connections", "Of this process: in_use, limit.", ("state",))

        view = ("view",)
        self._compared = gauge("antiphon_skew_compared_values", "Of the last comparison of batch and online.", view)
        self._different = gauge("antiphon_skew_different_values", "Of these, those that differ.", view)
        self._not_comparable = gauge("antiphon_skew_not_comparable_values", "That it had to leave out.", view)
        self._measured_at = gauge("antiphon_skew_measured_seconds", "When it was, in seconds since 1970.", view)

    def watch_skew(self, views: Iterable[ViewSkew]) -> None:
        """Take over what comparisons of batch and online found last; a view that there is no more is told no more."""
        for gauge in (self._compared, self._different, self._not_comparable, self._measured_at):
            gauge.clear()
        for view in views:
            self._compared.labels(view.view).set(view.compared)
            self._different.labels(view.view).set(view.different)
            self._not_comparable.labels(view.view).set(view.not_comparable)
            self._measured_at.labels(view.view).set(view.measured_at.timestamp())

    def watch(self, streams: Iterable[StreamStatus]) -> None:
        """Take over how far streams are; one that cannot be told keeps what was known of it."""
        for stream in streams:
            if stream.follower is not None:
                self._refused.labels(stream.stream).set(stream.follower.refused)
                if stream.follower.behind_seconds is not None:
                    self._behind.labels(stream.stream).set(stream.follower.behind_seconds)
            if stream.problem is not None:
                continue
            self._lag.labels(stream.stream).set(stream.lag)
            self._lag_seconds.labels(stream.stream).set(stream.lag_seconds)
            for view in stream.views:
                if view.watermark is not None:
                    self._watermark.labels(stream.stream, view.view).set(view.watermark.timestamp())
                self._late.labels(stream.stream, view.view).set(view.late)
                self._rejected.labels(stream.stream, view.view).set(view.rejected)

    def watch_connections(self, in_use: int, limit: int) -> None:
        """Take over how many connections to the catalog this process uses."""
        self._connections.labels("in_use").set(in_use)
        self._connections.labels("limit").set(limit)

    def watch_gate(self, gate: GateStatus) -> None:
        """Take over how the gate in front of the engine stands."""
        for state, count in (("limit", gate.limit), ("inside", gate.inside), ("waiting", gate.waiting)):
            self._gate.labels(state).set(count)
        self._drain.set(gate.pace)

    def watch_engines(self, joined: Mapping[str, tuple[bool, EngineLoad]]) -> None:
        """Take over whether each engine that has joined answers, and its load; one that has left is told no more."""
        self._instance.clear()
        self._inside.clear()
        for name, (answers, load) in joined.items():
            self._instance.labels(name).set(answers)
            for state in ("running_online", "running_batch", "waiting_online", "waiting_batch"):
                self._inside.labels(name, state).set(getattr(load, state))

    def watch_batches(self, batches: Mapping[str, int], file_bytes: int) -> None:
        """Take over how many batches are in each status, and what files come to."""
        for status in (*self._statuses, *batches):
            self._batches.labels(status).set(batches.get(status, 0))
        self._statuses |= set(batches)
        self._file_bytes.set(file_bytes)

    def record(self, measured: AnswerMeasurement) -> None:
        """Count one request of the online path."""
        self._recent.append(measured)
        application = self._label(measured.application)
        self._requests.labels(application, "online", str(measured.status)).inc()
        if measured.status < 400:
            self._total.labels(application, "online", measured.origin).observe(measured.total)
            if measured.first_byte is not None:
                self._first_byte.labels(application, "online", measured.origin).observe(measured.first_byte)

    def spend(self, application: str, prompt: int, completion: int, engine_seconds: float) -> None:
        """Count an answer's usage."""
        application = self._label(application)
        self._tokens.labels(application, "online", "prompt").inc(prompt)
        self._tokens.labels(application, "online", "completion").inc(completion)
        self._engine.labels(application, "online").inc(engine_seconds)

    def reused(self, application: str, origin: str, role: str, saved_tokens: int) -> None:
        """Count what an answer saved, and whether it stood in for one."""
        application = self._label(application)
        if role in STAND_IN_ROLES:
            self._stand_ins.labels(application, role).inc()
        elif saved_tokens:
            self._saved.labels(application, origin).inc(saved_tokens)

    def watch_breakers(self, breakers: Iterable[BreakerStatus]) -> None:
        """Export the state and the failures of the engines' circuit breakers."""
        for one in breakers:
            self._breaker.labels(one.name).set(STATES.index(one.state))
            self._breaker_failed.labels(one.name).set(one.failed)

    def since(self, moment: float, tenant: str) -> list[AnswerMeasurement]:
        """Returns a tenant's answers that ended after ``moment`` (monotonic seconds), oldest first."""
        recent = []
        for measured in reversed(self._recent):
            if measured.at < moment:
                break
            if measured.tenant == tenant:
                recent.append(measured)
        return recent[::-1]

    def _label(self, application: str) -> str:
        # A request may fail before it is known whether its name exists (overload, say): the name alone proves nothing,
        # and may be a key in the wrong place.
        application = without_credentials(application)
        if application not in self._labels:
            if len(self._labels) >= MOST_APPLICATIONS:
                return OTHERS
            self._labels.add(application)
        return application

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


def percentiles(measured: Iterable[AnswerMeasurement]) -> Percentiles:
    """Nearest-rank percentiles of the answers among them; failures are counted apart."""
    listed = list(measured)
    answered = [one for one in listed if one.status < 400]
    totals = sorted(one.total for one in answered)
    firsts = sorted(one.first_byte for one in answered if one.first_byte is not None)
    return Percentiles(
        count=len(answered),
        failed=len(listed) - len(answered),
        first_byte_p50=_rank(firsts, 0.5),
        first_byte_p99=_rank(firsts, 0.99),
        total_p50=_rank(totals, 0.5),
        total_p90=_rank(totals, 0.9),
        total_p99=_rank(totals, 0.99),
    )


def _rank(ordered: list[float], share: float) -> float | None:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
