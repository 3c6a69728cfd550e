"""Metrics of this gateway.

Seconds are wall seconds from the request's arrival: ``first_byte`` to the first byte sent, ``total`` to the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from antiphon.catalog.features.skew_reports import ViewSkew
from antiphon.core.circuit_breaker import BreakerStatus
from antiphon.core.loop_lateness import lateness_counter
from antiphon.engine.api.messages import EngineLoad
from antiphon.features.streaming.consumer import StreamStatus
from antiphon.serving.admission.engine_gate import GateStatus
from antiphon.serving.answer_metrics import AnswerMetrics

STATES = ("closed", "half-open", "open")
"""Of a breaker, as numbered in the metrics."""


Fault = Literal["none", "caller", "platform"]


class AnswerMeasurement(msgspec.Struct, frozen=True):
    """One answered or failed request.

    Attributes:
        first_byte: ``None`` on failure.
        fault: whose a failure is.
    """

    tenant: str
    application: str
    origin: str
    status: int
    first_byte: float | None
    total: float
    fault: Fault = "none"


class GatewayMetrics:
    """Counts and times requests of one gateway process, beside its ``answers``.

    A label is made only for an application the gateway knows, so that a caller cannot fill the memory with names.
    """

    def __init__(self, answers: AnswerMetrics | None = None) -> None:
        self._statuses: set[str] = set()
        self._answers = answers or AnswerMetrics()
        registry = self.registry = self._answers.registry
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        total = partial(_Total, registry)
        self._requests = counter(
            "antiphon_requests", "Requests by status.", ("tenant", "application", "path", "status", "fault")
        )
        engine = ("engine",)
        self._breaker = gauge("antiphon_engine_breaker", "0 closed, 1 half-open, 2 open.", engine)
        self.denials = counter("antiphon_denials", "Requests that were not let in.", ("tenant", "code"))
        self.operations = counter("antiphon_operation_requests", "Requests of operations.")
        self._breaker_failed = total("antiphon_engine_failed_requests", "Since the start of this process.", engine)
        self.in_flight = gauge("antiphon_in_flight", "Requests being answered.")
        self.late = lateness_counter(registry)
        self.half_open = gauge("antiphon_half_open_connections", "Connections that send no complete request head.")
        self.departed = counter("antiphon_clients_departed", "Clients that left before their answer's end.")

        stream, views = ("stream",), ("stream", "view")
        self._lag = gauge("antiphon_stream_lag_events", "Events not yet applied.", stream)
        self._lag_seconds = gauge("antiphon_stream_lag_seconds", "Since when the first of them waits.", stream)
        self._behind = gauge("antiphon_follower_behind_seconds", "Age of what a followed place was read to.", stream)
        self._refused = total("antiphon_follower_refused_rows", "Rows of a followed place that are no events.", stream)
        self._watermark = gauge("antiphon_stream_watermark_timestamp_seconds", "Greatest event time seen.", views)
        self._late = total("antiphon_stream_late_events", "Events out of order.", views)
        self._batches = gauge("antiphon_batches", "Batches of requests by status.", ("status",))
        self._file_bytes = gauge("antiphon_file_bytes", "What stored files come to.")
        self._rejected = total("antiphon_stream_rejected_events", "Events without keys.", views)

        self._instance = gauge("antiphon_engine_instance_up", "1 for a joined engine that answers, else 0.", engine)
        self._inside = gauge("antiphon_engine_instance_requests", "In it, by state.", ("engine", "state"))

        self._gate = gauge("antiphon_engine_gate", "Online requests: limit, inside the engine, waiting.", ("state",))
        self._waited = total("antiphon_engine_waited_seconds", "In which answers of the engine were waited for.", ())
        self._way = total("antiphon_engine_way_seconds", "Of these, what the engine knows nothing of.", ())
        self._drain = gauge("antiphon_engine_drain_per_second", "Requests that come out while it is full.")

        self._connections = gauge("antiphon_catalog_connections", "Of this process: in_use, limit.", ("state",))

        view = ("view",)
        self._compared = gauge("antiphon_skew_compared_values", "Of the last comparison of batch and online.", view)
        self._different = gauge("antiphon_skew_different_values", "Of these, those that differ.", view)
        self._not_comparable = gauge("antiphon_skew_not_comparable_values", "That it had to leave out.", view)
        self._measured_at = gauge("antiphon_skew_measured_timestamp_seconds", "When it was.", view)

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
                self._refused.reached(stream.follower.refused, stream.stream)
                if stream.follower.behind_seconds is not None:
                    self._behind.labels(stream.stream).set(stream.follower.behind_seconds)
            if stream.problem is not None:
                continue
            self._lag.labels(stream.stream).set(stream.lag)
            self._lag_seconds.labels(stream.stream).set(stream.lag_seconds)
            for view in stream.views:
                if view.watermark is not None:
                    self._watermark.labels(stream.stream, view.view).set(view.watermark.timestamp())
                self._late.reached(view.late, stream.stream, view.view)
                self._rejected.reached(view.rejected, stream.stream, view.view)

    def watch_connections(self, in_use: int, limit: int) -> None:
        """Take over how many connections to the catalog this process uses."""
        self._connections.labels("in_use").set(in_use)
        self._connections.labels("limit").set(limit)

    def watch_gate(self, gate: GateStatus) -> None:
        """Take over how the gate in front of the engine stands."""
        for state, count in (("limit", gate.limit), ("inside", gate.inside), ("waiting", gate.waiting)):
            self._gate.labels(state).set(count)
        self._drain.set(gate.pace)
        self._waited.reached(gate.waited)
        self._way.reached(gate.on_the_way)

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
        application = self._answers.label(measured.tenant, measured.application)
        self._requests.labels(measured.tenant, application, "online", str(measured.status), measured.fault).inc()
        if measured.status < 400:
            self._answers.sent(
                measured.tenant, measured.application, measured.origin, measured.first_byte, measured.total
            )

    def watch_breakers(self, breakers: Iterable[BreakerStatus]) -> None:
        """Export the state and the failures of the engines' circuit breakers."""
        for one in breakers:
            self._breaker.labels(one.name).set(STATES.index(one.state))
            self._breaker_failed.reached(one.failed, one.name)

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class _Total:
    """A counter of what somebody else counts, whose count may begin anew."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, labels: tuple[str, ...]) -> None:
        self._counter = Counter(name, text, labels, registry=registry)
        self._seen: dict[tuple[str, ...], float] = {}

    def reached(self, count: float, *labels: str) -> None:
        seen = self._seen.get(labels, 0.0)
        counter = self._counter.labels(*labels) if labels else self._counter
        counter.inc(count - seen if count >= seen else count)
        self._seen[labels] = count
