"""Every process of ``antiphon up`` sends spans, metrics and log lines to a collector, and waits for none."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from time import monotonic
from typing import Any

import httpx2
import pytest
from tests.harness.collector import Collector, attributes, collector, sent_to
from tests.harness.ports import free_port
from tests.integration.cli.conftest import Run, Up
from tests.servers import program, until

__all__ = ["collector"]

ROUTE = "POST /v1/chat/completions"
GENERATES = "text_completion smollm2-135m"
CALLER = "0af7651916cd43dd8448eb211c80319c"
QUESTION = {"model": "desk", "entity": {"shop": "tea"}, "messages": [{"role": "user", "content": "Late, Miss Marple?"}]}


@pytest.fixture(scope="module")
def up(project, collector: Collector) -> Iterator[Up]:
    started = Up(project, **sent_to(collector))
    try:
        started.until(lambda told: any(line.get("event") == "up" for line in told))
        yield started
    finally:
        started.stop()


def client(project, up: Up, trace: str = CALLER) -> httpx2.Client:
    key = (project / ".antiphon" / "keys" / "admin.key").read_text().strip()
    headers = {"authorization": f"Bearer {key}", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    return httpx2.Client(base_url=f"http://127.0.0.1:{up.port}", headers=headers, timeout=30)


def asked(project, up: Up) -> httpx2.Response:
    with client(project, up) as asking:
        return asking.post("/v1/chat/completions", json=QUESTION)


def traced(collector: Collector, trace: str = CALLER) -> dict[tuple[str, str], Any]:
    """The spans of a trace by process and name."""
    return {(process, span.name): span for process, span in collector.spans() if span.trace_id.hex() == trace}


def test_a_request_is_one_trace_across_processes(project, up: Up, collector: Collector) -> None:
    assert asked(project, up).status_code == 200

    until(lambda: {("antiphon-gateway", ROUTE), ("antiphon-engine", GENERATES)} <= traced(collector).keys())
    found = traced(collector)
    assert {process for process, _ in found} == {"antiphon-gateway", "antiphon-engine"}
    served = found["antiphon-gateway", ROUTE]
    assert (attributes(served)["http.route"], attributes(served)["http.response.status_code"]) == (ROUTE[5:], 200)
    asks, generates = found["antiphon-gateway", GENERATES], found["antiphon-engine", GENERATES]
    assert generates.parent_span_id == asks.span_id
    for one in (asks, generates):
        assert attributes(one)["gen_ai.provider.name"] == "antiphon"
        assert attributes(one)["gen_ai.response.finish_reasons"] == ["stop"]
    assert "Marple" not in "".join(str(span) for _, span in collector.spans()), "no content of a request"


def test_a_run_is_of_the_trace_of_the_request_that_ordered_it(project, up: Up, collector: Collector) -> None:
    with client(project, up, trace := "1" * 32) as ordering:
        assert ordering.post("/admin/features/refresh", json={}).status_code < 300
    until(lambda: ("antiphon-worker", "workflow refresh") in traced(collector, trace))
    assert ("antiphon-gateway", "POST /admin/features/refresh") in traced(collector, trace)


def test_metrics_are_sent_under_our_names_and_the_conventions(project, up: Up, collector: Collector) -> None:
    assert asked(project, up).status_code == 200

    def counted() -> dict[str, Any]:
        return {metric.name: metric for process, metric in collector.metrics() if process == "antiphon-gateway"}

    until(lambda: counted().get("antiphon_requests") and counted()["antiphon_requests"].sum.data_points)
    (requests,) = counted()["antiphon_requests"].sum.data_points
    assert attributes(requests) == {
        "tenant": "default",
        "application": "desk",
        "path": "online",
        "status": "200",
        "fault": "none",
    }
    first = counted()["gen_ai.server.time_to_first_token"]
    assert (first.unit, attributes(first.histogram.data_points[0])["gen_ai.request.model"]) == ("s", "desk")
    assert counted()["antiphon_stream_lag_events"].gauge.data_points, (
        "what is only looked at now and then is brought up"
    )


def test_lines_of_logs_are_sent_with_their_process(up: Up, collector: Collector) -> None:
    until(lambda: {process for process, _ in collector.lines()} >= {"antiphon-gateway", "antiphon-worker"})


def test_every_process_serves_its_metrics_where_prometheus_finds_them(project, up: Up) -> None:
    assert asked(project, up).status_code == 200
    run = project / ".antiphon" / "run"
    found = {}
    for file in run.glob("*.metrics.json"):
        ((target,),) = ([one["targets"] for one in json.loads(file.read_text())],)
        found[file.name.partition(".")[0]] = httpx2.get(f"http://{target[0]}/metrics").text
    assert found.keys() == {"gateway", "worker", "engine"}
    for text in found.values():
        assert 'antiphon_build_info{python="' in text
        assert "process_resident_memory_bytes" in text
        checked = subprocess.run(
            [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=30
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert 'antiphon_run_attempts_total{outcome="succeeded",workflow="refresh"}' in found["worker"]
    assert 'antiphon_answers_total{application="desk"' in found["gateway"]
    assert 'antiphon_engine_generated_tokens_total{path="online"} 0.0' not in found["engine"]


def test_where_telemetry_goes_is_told_and_tried(antiphon: Run, up: Up, collector: Collector) -> None:
    told = antiphon("telemetry", "list", "--json", **sent_to(collector)).json()
    assert told["collector"] == dict.fromkeys(("traces", "metrics", "logs"), collector.endpoint)
    assert told["metrics"]["worker"].endswith("/metrics")
    assert antiphon("telemetry", "check", **sent_to(collector)).code == 0
    refused = antiphon("telemetry", "check", "--json", **sent_to(collector) | {"OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"})
    assert refused.code == 6
    assert "OTLP over 'smoke' is not known." in refused.json()["logs"]
    away = {"OTEL_SDK_DISABLED": "false", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    assert "does not take it" in antiphon("telemetry", "check", "--json", **away).json()["traces"]
    assert "nowhere" in antiphon("telemetry", "check", "--json", OTEL_SDK_DISABLED="false").json()["metrics"]


@pytest.mark.parametrize("how", ["hangs", "is away"])
def test_a_collector_that_takes_nothing_holds_nobody_up(project, up: Up, how: str) -> None:
    up.stop()  # the one of the other tests
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if how == "is away":
            silent.close()
        sending = {"OTEL_SDK_DISABLED": "false", "OTEL_EXPORTER_OTLP_ENDPOINT": place, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        started = Up(project, **sending)
        try:
            started.until(lambda told: any(line.get("event") == "up" for line in told))
            assert asked(project, started).status_code == 200
            assert asked(project, started).status_code == 200
        finally:
            began = monotonic()
            started.stop()
    assert monotonic() - began < 15, "it ends as soon as ever"
