"""A collector of OpenTelemetry's protocol (rotel), and the spans, metrics and log lines that it hands on."""

from __future__ import annotations

import gzip
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.harness.ports import free_port
from tests.servers import ServerProcess, program


class Collector(ServerProcess):
    """``rotel``, which takes OTLP over HTTP in at ``endpoint`` and hands it on to this process."""

    def __init__(self) -> None:
        self.program = _program()
        super().__init__("collector")
        self._received: list[tuple[str, bytes]] = []
        received = self._received

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                zipped = self.headers.get("content-encoding") == "gzip"
                received.append((self.path, gzip.decompress(body) if zipped else body))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *said: object) -> None:
                pass

        self._receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        threading.Thread(target=self._receiver.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}:{self.port}"

    def command(self) -> list[str]:
        place = f"http://127.0.0.1:{self._receiver.server_port}"
        return [
            str(self.program), "start", "--otlp-http-endpoint", f"{self.address}:{self.port}",
            "--otlp-grpc-endpoint", f"{self.address}:{free_port()}", "--exporter", "otlp",
            "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", place, "--batch-timeout", "50ms",
            "--pid-file", str(self.folder / "pid"), "--log-file", str(self.folder / "own.log"),
        ]  # fmt: skip

    def remove(self) -> None:
        super().remove()
        self._receiver.shutdown()
        self._receiver.server_close()

    def spans(self) -> list[tuple[str, Any]]:
        """The process and the span, as the protocol has it, of each span so far."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest as Request

        return self._sent("traces", Request, "resource_spans", "scope_spans", "spans")

    def metrics(self) -> list[tuple[str, Any]]:
        """The process and the metric of each metric so far."""
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest as Request

        return self._sent("metrics", Request, "resource_metrics", "scope_metrics", "metrics")

    def lines(self) -> list[tuple[str, Any]]:
        """The process and the log record of each line so far."""
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest as Request

        return self._sent("logs", Request, "resource_logs", "scope_logs", "log_records")

    def _sent(self, signal: str, kind: Any, processes: str, scopes: str, items: str) -> list[tuple[str, Any]]:
        bodies = [kind.FromString(body) for path, body in list(self._received) if path.endswith(signal)]
        of_processes = [one for body in bodies for one in getattr(body, processes)]
        return [
            (service(one), item)
            for one in of_processes
            for scope in getattr(one, scopes)
            for item in getattr(scope, items)
        ]


def service(of: Any) -> str:
    """The name of the process that sent it."""
    return str(attributes(of.resource)["service.name"])


def attributes(of: Any) -> dict[str, Any]:
    """Attributes of a span, a data point, a log record or a resource."""
    return {one.key: _value(one.value) for one in of.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def _program() -> Path:
    found = find_spec("rotel")
    if found is None or found.origin is None:
        program("rotel-agent")
        pytest.skip("there is no collector for this Python")
    agent = Path(found.origin).with_name("rotel-agent")
    agent.chmod(agent.stat().st_mode | stat.S_IXUSR)
    return agent


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def sent_to(collector: Collector, every_ms: int = 300) -> dict[str, str]:
    """The environment of a process that sends its telemetry there, soon."""
    return {
        "OTEL_SDK_DISABLED": "false", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": str(every_ms), "OTEL_BLRP_SCHEDULE_DELAY": str(every_ms),
        "OTEL_METRIC_EXPORT_INTERVAL": str(every_ms), "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
