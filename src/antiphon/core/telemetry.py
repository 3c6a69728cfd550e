"""Spans in OpenTelemetry's conventions.

Library code opens spans through :func:`span`; while nobody records they cost about a microsecond and go nowhere.
``telemetry_export`` says where they go. Names of the conventions for generative systems are still being renamed
upstream, so they stand in two tables here, and nowhere else.

Invariant: a name and an attribute that is a text went through the filter that log lines go through, and are bounded:
what a caller sends in place of a name (a model, an application) may be a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from antiphon.core.logs import without_credentials

GENAI = {
    "operation": "gen_ai.operation.name",
    "provider": "gen_ai.provider.name",
    "model": "gen_ai.request.model",
    "response_model": "gen_ai.response.model",
    "finish_reasons": "gen_ai.response.finish_reasons",
    "input_tokens": "gen_ai.usage.input_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
}
"""Our short names to the conventions' present ones, of spans and labels."""

GENAI_METRICS = {
    "antiphon_first_byte_seconds": "gen_ai.server.time_to_first_token",
    "antiphon_answer_seconds": "gen_ai.server.request.duration",
}
"""Our metrics to the conventions' present ones, under which a collector gets them as well."""

CARRIER = "TRACEPARENT"
"""The environment variable that carries a trace context to a child process, as OpenTelemetry names it."""

PROVIDER = "antiphon"
"""The provider of what our own engine generates."""

AttributeValue = str | int | float | bool | Sequence[str]
Attributes = Mapping[str, AttributeValue]

FAILED = "error.type"
"""An attribute of what failed, which is recorded in any trace."""

MOST_CHARACTERS = 200
"""Of one attribute."""

# The last of its flags says whether a trace is recorded.
_UNSAMPLED = tuple("02468ace")
_UNRECORDED = nullcontext(trace.INVALID_SPAN)
_tracer = trace.get_tracer("antiphon")
_propagator = TraceContextTextMapPropagator()


def is_recorded() -> bool:
    """Tells if this process records spans."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def span(
    name: str,
    attributes: Attributes | None = None,
    traceparent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> AbstractContextManager[Span]:
    """Open a span, as a child of ``traceparent`` (W3C) when one came over a process boundary."""
    # The SDK would open and close a span that is not recorded: the same, at ten times the price.
    if not is_recorded() or _is_left_out(traceparent):
        return _UNRECORDED
    return _recorded(name, attributes, traceparent, kind)


def _is_left_out(traceparent: str | None) -> bool:
    """``True`` within a trace of which nothing is recorded; its first span in a process makes its id known there."""
    present = trace.get_current_span().get_span_context()
    if not present.is_valid or present.trace_flags.sampled:
        return False
    return traceparent is None or traceparent.endswith(_UNSAMPLED)


@contextmanager
def _recorded(name: str, attributes: Attributes | None, traceparent: str | None, kind: SpanKind) -> Iterator[Span]:
    context = _propagator.extract({"traceparent": traceparent}) if traceparent else None
    # An exception's message may hold content of a request; its type is all that a trace is given.
    with _tracer.start_as_current_span(
        _discreet_text(name),
        context=context,
        kind=kind,
        attributes=_discreet(attributes or {}),
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except Exception as error:
            opened.set_status(StatusCode.ERROR)
            opened.set_attribute(FAILED, type(error).__qualname__)
            raise


def traceparent() -> str | None:
    """The present span's W3C trace context, to be sent over a process boundary."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


def carried() -> dict[str, str]:
    """The present span's trace context as environment variables of a child process."""
    context = traceparent()
    return {} if context is None else {CARRIER: context}


def trace_id() -> str:
    """The present trace id in hex; zeros when no span is recorded."""
    return format(trace.get_current_span().get_span_context().trace_id, "032x")


def record(
    name: str,
    started: int,
    attributes: Attributes,
    traceparent: str | None,
    kind: SpanKind = SpanKind.SERVER,
) -> None:
    """Record a span that has just ended, for work that no one block of code encloses; it ``started`` at so many
    nanoseconds since 1970 (``time.time_ns``)."""
    if traceparent is not None and traceparent.endswith(_UNSAMPLED) and FAILED not in attributes:
        return
    context = _propagator.extract({"traceparent": traceparent}) if traceparent else None
    _tracer.start_span(
        _discreet_text(name), context=context, kind=kind, attributes=_discreet(attributes), start_time=started
    ).end()


def describe(opened: Span, attributes: Attributes) -> None:
    """Add to a span what is known only at its end."""
    if opened.is_recording():
        opened.set_attributes(_discreet(attributes))


def _discreet(attributes: Attributes) -> dict[str, AttributeValue]:
    return {name: _discreet_value(value) for name, value in attributes.items()}


def _discreet_value(value: AttributeValue) -> AttributeValue:
    if isinstance(value, str):
        return _discreet_text(value)
    return [_discreet_text(one) for one in value] if isinstance(value, Sequence) else value


def _discreet_text(text: str) -> str:
    return without_credentials(text)[:MOST_CHARACTERS]
