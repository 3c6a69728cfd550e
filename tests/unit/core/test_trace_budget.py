"""So many traces a second are recorded whatever comes, whole ones, and what failed."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from antiphon.core import telemetry
from antiphon.core.trace_budget import TraceBudget


class Recorded:
    """What a process with a budget of two traces in five seconds records."""

    def __init__(self) -> None:
        self.now = 0.0
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider(TraceBudget(0.4, lambda: self.now))
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))

    @property
    def names(self) -> list[str]:
        return [span.name for span in self._kept.get_finished_spans()]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    made = Recorded()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: made.provider)
    monkeypatch.setattr(telemetry, "_tracer", made.provider.get_tracer("test"))
    return made


def request(parent: str | None = None) -> None:
    with telemetry.span("request", traceparent=parent, kind=SpanKind.SERVER):
        context = telemetry.traceparent()
        assert context is not None, "a receipt has the id of a trace that nobody recorded, too"
        with telemetry.span("answer", {"antiphon.path": "online"}, traceparent=context):
            pass


def test_few_traces_are_recorded_whole_and_of_many_so_many_a_second(recorded: Recorded) -> None:
    for _ in range(100):
        request()
    assert recorded.names.count("request") == recorded.names.count("answer") == 4
    recorded.now += 5.0
    for _ in range(100):
        request()
    assert recorded.names.count("request") == recorded.names.count("answer") == 6


@pytest.mark.parametrize(("flags", "count"), [("01", 50), ("00", 0), ("03", 50), ("02", 0)])
def test_the_decision_of_a_caller_stands(recorded: Recorded, flags: str, count: int) -> None:
    for _ in range(50):
        request(f"00-{'a' * 32}-{'b' * 16}-{flags}")
    assert recorded.names.count("answer") == count


def test_rows_in_the_trace_of_one_run_are_counted_one_by_one(recorded: Recorded) -> None:
    with telemetry.span("workflow batch"):
        for _ in range(100):
            with telemetry.span("answer", {"antiphon.path": "batch"}), telemetry.span("commit"):
                pass
    assert recorded.names.count("answer") == recorded.names.count("commit") == 3


def test_what_failed_is_recorded_in_any_trace(recorded: Recorded) -> None:
    for _ in range(10):
        request()
    failed = {telemetry.FAILED: "500"}
    telemetry.record("POST /v1/chat/completions", 1, failed, f"00-{'a' * 32}-{'b' * 16}-00")
    telemetry.record("engine", 1, {}, f"00-{'a' * 32}-{'b' * 16}-00")
    assert recorded.names[-1] == "POST /v1/chat/completions"
