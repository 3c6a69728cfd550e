"""Traces in OpenTelemetry's conventions.

Library code opens spans through :func:`span`; without an SDK configured they cost about a microsecond and
go nowhere. :func:`configure` is called once by each process's entry point. GenAI attribute names are still
being renamed upstream, so they live in one table here.

Invariant: an attribute that is a text went through the filter that log lines go through, and is bounded: what a caller
sends in place of a name (a model, an application) may be a key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, cast

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from antiphon.core.log_files import BoundedFile, RotationBounds
from antiphon.core.logs import without_credentials

GENAI = {
    "operation": "gen_ai.operation.name",
    "model": "gen_ai.request.model",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "finish_reason": "gen_ai.response.finish_reasons",
}
"""Our short names to the convention's present ones."""

MOST_CHARACTERS = 200
"""Of one attribute."""

_UNRECORDED = nullcontext(trace.INVALID_SPAN)
_tracer = trace.get_tracer("antiphon")
_propagator = TraceContextTextMapPropagator()


def span(
    name: str,
    attributes: Mapping[str, str | int | float | bool] | None = None,
    traceparent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> AbstractContextManager[Span]:
    """Open a span, as a child of ``traceparent`` (W3C) when one came over a process boundary."""
    # Without an SDK the API would open and close an invalid span: the same, at ten times the price.
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return _UNRECORDED
    return _recorded(name, attributes, traceparent, kind)


@contextmanager
def _recorded(
    name: str, attributes: Mapping[str, str | int | float | bool] | None, traceparent: str | None, kind: SpanKind
) -> Iterator[Span]:
    context = _propagator.extract({"traceparent": traceparent}) if traceparent else None
    # An exception's message may hold content of a request; its type is all that a trace is given.
    with _tracer.start_as_current_span(
        name,
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
            opened.set_attribute("error.type", type(error).__qualname__)
            raise


def traceparent() -> str | None:
    """The present span's W3C trace context, to be sent over a process boundary."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


def trace_id() -> str:
    """The present trace id in hex; zeros when no span is recorded."""
    return format(trace.get_current_span().get_span_context().trace_id, "032x")


def record(
    name: str,
    started: int,
    attributes: Mapping[str, str | int | float | bool],
    traceparent: str | None,
    kind: SpanKind = SpanKind.SERVER,
) -> None:
    """Record a span that has just ended, for work that no one block of code encloses; it ``started`` at so many
    nanoseconds since 1970 (``time.time_ns``)."""
    context = _propagator.extract({"traceparent": traceparent}) if traceparent else None
    _tracer.start_span(name, context=context, kind=kind, attributes=_discreet(attributes), start_time=started).end()


def _discreet(attributes: Mapping[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
    return {
        name: without_credentials(value)[:MOST_CHARACTERS] if isinstance(value, str) else value
        for name, value in attributes.items()
    }


def configure(process: str, directory: Path | None, bounds: RotationBounds | None = None) -> None:
    """Record this process's spans as JSON lines in ``directory/traces-PROCESS.jsonl``.

    ``OTEL_SDK_DISABLED=true`` turns recording off. Spans are exported in batches by a thread, so that no
    request waits for the file. The file is set aside at a size.
    """
    if directory is None or os.environ.get("OTEL_SDK_DISABLED") == "true":
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    out = BoundedFile(directory / f"traces-{process}.jsonl", bounds or RotationBounds())
    provider = TracerProvider(resource=Resource.create({"service.name": f"antiphon-{process}"}))
    exporter = ConsoleSpanExporter(
        out=cast(IO[str], out), formatter=lambda finished: finished.to_json(indent=None) + "\n"
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
