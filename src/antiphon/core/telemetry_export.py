"""Sends spans, metrics and log lines of a process to a collector by OTLP, and keeps spans in a file of its own.

A collector is named as OpenTelemetry's specification says, by ``OTEL_EXPORTER_OTLP_ENDPOINT`` and the variables beside
it; without one nothing leaves the machine. Bounded queues are emptied by threads: what a collector that is away or
hangs does not take is left out, no request waits for it, and a process that ends waits :data:`LONGEST_END_SECONDS`.

Invariant: what a collector gets went through the same filters as what is on the disk.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from opentelemetry import trace

from antiphon.core.errors import SetupError
from antiphon.core.log_files import BoundedFile, RotationBounds
from antiphon.core.logs import DiscreetFormatter, RepeatedLines

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

TRACES_PER_SECOND = 2.0

LONGEST_END_SECONDS = 2.0
"""In which a process that ends sends what it still has."""

LONGEST_CHECK_SECONDS = 5.0

SIGNALS = ("traces", "metrics", "logs")

_PROTOCOLS = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc",
}
_EXPORTERS = {
    "traces": ("trace_exporter", "OTLPSpanExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter"),
}
_USER = re.compile(r"//[^/@]*@")
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
# A line of theirs about a line that could not be sent would be sent in turn.
_OWN_LINES = ("opentelemetry", "urllib3", "requests")

# Numbers of OpenTelemetry's log data model.
_SEVERITIES = {"DEBUG": 5, "INFO": 9, "WARNING": 13, "ERROR": 17, "CRITICAL": 21}

_log = logging.getLogger("antiphon.telemetry")


def endpoint(signal: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The collector that gets ``traces``, ``metrics`` or ``logs`` of this process, without what it is asked with;
    ``None`` when none does."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if environment.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp") != "otlp":
        return None
    place = environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT") or environment.get(_ENDPOINT)
    return _USER.sub("//", place) if place else None


def problem_with(signal: str) -> str | None:
    """Returns what keeps a signal from being sent; ``None`` when its collector takes it."""
    if (place := endpoint(signal)) is None:
        return "It is sent nowhere: set OTEL_EXPORTER_OTLP_ENDPOINT."
    try:
        exporter = _exporter(signal, timeout=LONGEST_CHECK_SECONDS)
    except SetupError as error:
        return str(error)
    content: Any = ()
    if signal == "metrics":
        from opentelemetry.sdk.metrics.export import MetricsData

        content = MetricsData([])
    # An empty sending is answered as any other.
    with suppress(Exception):
        if exporter.export(content).name == "SUCCESS":
            return None
    return f"{place} does not take it: see what its exporter says above, and OTEL_EXPORTER_OTLP_HEADERS."


class Telemetry:
    """The telemetry of one process; made once, by its entry point.

    Args:
        kind: of process: ``gateway``, ``worker``, ``engine``, ``training``.
        name: unique among the processes of a project on this machine.
        folder: of ``traces-NAME.jsonl``; ``None`` keeps no spans here.
        environment: of the deployment, as it is declared.
        per_second: traces that are recorded when there are more, unless ``OTEL_TRACES_SAMPLER`` says otherwise.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        folder: Path | None = None,
        bounds: RotationBounds | None = None,
        environment: str | None = None,
        per_second: float = TRACES_PER_SECOND,
    ) -> None:
        self._ends: list[Callable[[], Any]] = []
        if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return
        self._kind, self._name, self._environment, self._per_second = kind, name, environment, per_second
        self._trace(folder, bounds or RotationBounds())
        self._log()
        atexit.register(self.close)

    def export(self, registry: CollectorRegistry, refresh: Callable[[], Any] = lambda: None) -> None:
        """Send the metrics of a registry every ``OTEL_METRIC_EXPORT_INTERVAL`` milliseconds, 60,000 by default.

        Args:
            refresh: brings what is only looked at now and then up to date; called by another thread.
        """
        if (exporter := _declared_exporter("metrics")) is None:
            return
        from antiphon.core.otlp_metrics import registry_reader

        self._ends.append(registry_reader(exporter, registry, self._resource(), refresh).shutdown)

    def close(self) -> None:
        """Send what is left, within :data:`LONGEST_END_SECONDS`."""
        atexit.unregister(self.close)
        ends, self._ends = self._ends, []
        running = [threading.Thread(target=_quietly, args=(end,), daemon=True) for end in ends]
        until = time.monotonic() + LONGEST_END_SECONDS
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(max(0.0, until - time.monotonic()))

    def _trace(self, folder: Path | None, bounds: RotationBounds) -> None:
        exporter = _declared_exporter("traces")
        if folder is None and exporter is None:
            return
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        provider = TracerProvider(self._sampler(), self._resource(), shutdown_on_exit=False)
        if folder is not None:
            out = BoundedFile(folder / f"traces-{self._name}.jsonl", bounds)
            kept = ConsoleSpanExporter(out=cast(IO[str], out), formatter=lambda one: one.to_json(indent=None) + "\n")
            provider.add_span_processor(BatchSpanProcessor(kept))
        if exporter is not None:
            provider.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        self._ends.append(provider.shutdown)

    def _log(self) -> None:
        if (exporter := _declared_exporter("logs")) is None:
            return
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

        provider = LoggerProvider(resource=self._resource(), shutdown_on_exit=False)
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
        handler = CollectorLog(provider)
        logging.getLogger().addHandler(handler)

        def end() -> None:
            logging.getLogger().removeHandler(handler)
            provider.shutdown()

        self._ends.append(end)

    def _sampler(self) -> Any | None:
        if "OTEL_TRACES_SAMPLER" in os.environ:
            return None  # The SDK does as the variable says.
        from antiphon.core.trace_budget import TraceBudget

        return TraceBudget(self._per_second)

    def _resource(self) -> Any:
        from opentelemetry.sdk.resources import Resource

        service = f"{os.environ.get('OTEL_SERVICE_NAME') or 'antiphon'}-{self._kind}"
        named = {
            "service.name": service,
            "service.version": version("antiphon"),
            "service.instance.id": f"{socket.gethostname()}/{self._name}",
        }
        if self._environment is not None:
            named["deployment.environment.name"] = self._environment
        return Resource.create(named)


class CollectorLog(logging.Handler):
    """Hands log lines to a collector: their text as on the disk, with the trace that they belong to."""

    def __init__(self, provider: Any) -> None:
        super().__init__()
        self._provider = provider
        self.setFormatter(DiscreetFormatter("%(message)s"))
        self.addFilter(lambda record: not record.name.startswith(_OWN_LINES))
        self.addFilter(RepeatedLines())

    def emit(self, record: logging.LogRecord) -> None:
        from opentelemetry._logs import LogRecord
        from opentelemetry._logs.severity import SeverityNumber
        from opentelemetry.context import get_current

        raised = record.exc_info[0] if record.exc_info else None
        self._provider.get_logger(record.name).emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                context=get_current(),
                severity_text=record.levelname,
                severity_number=SeverityNumber(_SEVERITIES.get(record.levelname, 0)),
                body=self.format(record),
                attributes={} if raised is None else {"exception.type": raised.__qualname__},
            )
        )


def _quietly(end: Callable[[], Any]) -> None:
    with suppress(Exception):
        end()


def _declared_exporter(signal: str) -> Any | None:
    """The exporter of a signal that is sent somewhere. What keeps it from being sent keeps no process from serving."""
    if endpoint(signal) is None:
        return None
    try:
        return _exporter(signal)
    except SetupError as error:
        _log.warning("No %s are sent: %s", signal, error)
        return None


def _exporter(signal: str, **options: Any) -> Any:
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL")
    protocol = own or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if protocol not in _PROTOCOLS:
        raise SetupError(
            f"OTLP over {protocol!r} is not known.", where="OTEL_EXPORTER_OTLP_PROTOCOL",
            next_step="Set http/protobuf or grpc.",
        )  # fmt: skip
    module, name = _EXPORTERS[signal]
    try:
        return getattr(import_module(f"{_PROTOCOLS[protocol]}.{module}"), name)(**options)
    except ImportError:
        package = "antiphon[otlp]" if protocol != "grpc" else "opentelemetry-exporter-otlp-proto-grpc"
        raise SetupError(
            "The exporter is not installed.", where=signal, next_step=f"Run `pip install '{package}'`."
        ) from None
