"""Spans: nothing is opened while nobody records, and whoever records gets them."""

from __future__ import annotations

import logging

import pytest
from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from antiphon.core import telemetry
from antiphon.core.telemetry_export import CollectorLog, endpoint

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_without_a_recorder_a_span_is_nothing_and_errors_pass() -> None:
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    with telemetry.span("outer", traceparent=CALLER) as outer, telemetry.span("inner") as inner:
        assert not outer.is_recording()
        assert not inner.is_recording()
    with pytest.raises(ValueError, match="as it is"), telemetry.span("failing"):
        raise ValueError("as it is")


def test_who_records_gets_the_span_its_parent_and_the_kind_of_error(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    with pytest.raises(ValueError, match="secret"), telemetry.span("outer", {"a": 1}, traceparent=CALLER):
        raise ValueError("secret")
    (span,) = kept.get_finished_spans()
    assert span.parent is not None
    assert format(span.parent.trace_id, "032x") == CALLER.split("-")[1]
    assert dict(span.attributes or {}) == {"a": 1, "error.type": "ValueError"}
    assert not span.events


def test_a_credential_in_an_attribute_is_struck_out_and_a_long_one_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    key = "ak_" + "a" * 40
    with telemetry.span("answer", {"antiphon.application": key, "n": 1}):
        pass
    telemetry.record("engine.generate", 0, {"gen_ai.request.model": f"Bearer {key}", "long": "x" * 100_000}, None)
    answer, generate = kept.get_finished_spans()
    assert dict(answer.attributes or {}) == {"antiphon.application": "[struck out]", "n": 1}
    found = dict(generate.attributes or {})
    assert found["gen_ai.request.model"] == "Bearer [struck out]"
    assert len(str(found["long"])) == telemetry.MOST_CHARACTERS


def test_lines_for_a_collector_are_as_discreet_as_those_of_the_disk() -> None:
    kept, provider = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    log, handler, wrote = logging.getLogger("antiphon.test-collector"), CollectorLog(provider), "what a user wrote"
    log.addHandler(handler)
    try:
        log.warning("a key: %s\nand a line", "ak_" + "a" * 40)
        try:
            raise ValueError(wrote)
        except ValueError:
            log.exception("It failed")
        logging.getLogger("opentelemetry.exporter").warning("about a line that could not be sent")
    finally:
        log.removeHandler(handler)
    first, second = (one.log_record for one in kept.get_finished_logs())
    assert first.body == "a key: [struck out]\\nand a line"
    assert str(second.body).startswith("It failed\nTraceback")
    assert wrote not in str(second.body)
    assert dict(second.attributes or {}) == {"exception.type": "ValueError"}


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://all"}, "http://all"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://all", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://one"}, "http://one"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://all", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:word@all/v1"}, "http://all/v1"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://all", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)  # fmt: skip
def test_the_specified_variables_say_what_is_sent(environment: dict[str, str], sent: str | None) -> None:
    assert endpoint("traces", environment) == sent


def test_the_names_are_those_of_the_conventions() -> None:
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    assert set(telemetry.GENAI.values()) <= known
    assert set(telemetry.GENAI_METRICS.values()) <= {
        value for name, value in vars(gen_ai_metrics).items() if name.startswith("GEN_AI_")
    }
