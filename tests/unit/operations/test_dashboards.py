"""The shipped alerts and the dashboard are read by Prometheus' own tool, and ask only for what processes tell."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.servers import program

from antiphon.core.process_metrics import describe_process
from antiphon.durable.run_metrics import RunMetrics
from antiphon.engine.api.engine_metrics import engine_registry
from antiphon.engine.api.messages import EngineLoad
from antiphon.gateway.measurements import GatewayMetrics

SHIPPED = files("antiphon.operations").joinpath("dashboards")
ALERTS = SHIPPED.joinpath("alerts.yml").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads(SHIPPED.joinpath("grafana.json").read_text(encoding="utf-8"))

FIRES = """
rule_files: [alerts.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'up{job="antiphon", process="worker", instance="a"}'
        values: '0x10'
      - series: 'antiphon_requests_total{application="desk", path="online", status="500"}'
        values: '0+3x30'
      - series: 'antiphon_requests_total{application="desk", path="online", status="200"}'
        values: '0+60x30'
      - series: 'antiphon_run_attempts_total{workflow="train", outcome="failed"}'
        values: '0 0 0 0 0 5x25'
      - series: 'antiphon_catalog_connections{state="in_use", process="gateway"}'
        values: '10x30'
      - series: 'antiphon_catalog_connections{state="limit", process="gateway"}'
        values: '10x30'
    alert_rule_test:
      - {eval_time: 5m, alertname: AntiphonProcessDown, exp_alerts: [{exp_labels:
          {severity: page, job: antiphon, process: worker, instance: a}, exp_annotations: {
          summary: "worker on a does not answer.",
          action: "`antiphon status` lists the processes; `.antiphon/logs/worker.log` says why it ended."}}]}
      - {eval_time: 20m, alertname: AntiphonRequestsFail, exp_alerts: [{exp_labels:
          {severity: page, application: desk}, exp_annotations: {
          summary: "4.762% of the requests of desk fail.",
          action: "`antiphon doctor`; failed requests are in the traces, whatever the load."}}]}
      - {eval_time: 20m, alertname: AntiphonEngineAway, exp_alerts: []}
      - {eval_time: 20m, alertname: AntiphonCatalogConnectionsUsedUp, exp_alerts: [{exp_labels:
          {severity: warn, process: gateway}, exp_annotations: {
          summary: "gateway uses nearly all of its connections to the catalog.",
          action: "Raise `connections` under [catalog], or start another process."}}]}
"""


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "5m").replace("$application", ".*")


def told() -> set[str]:
    """Names of all metrics of all processes."""
    worker = describe_process(CollectorRegistry())
    RunMetrics(worker)
    registries = (GatewayMetrics().registry, worker, engine_registry(EngineLoad))
    families = [family for registry in registries for family in registry.collect()]
    names = {family.name for family in families} | {sample.name for family in families for sample in family.samples}
    return names | {f"{family.name}_total" for family in families if family.type == "counter"} | {"up"}


def checked(*words: str, folder: Path) -> None:
    done = subprocess.run([program("promtool"), *words], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_are_well_formed_and_fire_as_they_say(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text(ALERTS)
    (tmp_path / "test.yml").write_text(FIRES)
    checked("check", "rules", "alerts.yml", folder=tmp_path)
    checked("test", "rules", "test.yml", folder=tmp_path)


def test_every_expression_of_the_dashboard_is_one(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked("check", "rules", "rules.yml", folder=tmp_path)


@pytest.mark.parametrize("text", [ALERTS, "\n".join(expressions())], ids=["alerts", "dashboard"])
def test_they_ask_for_what_a_process_tells(text: str) -> None:
    asked = set(re.findall(r"\b(?:antiphon|process)_[a-z_]+\b", text))
    known = told()
    histograms = {f"{name}_{end}" for name in known for end in ("bucket", "sum", "count")}
    assert asked - known - histograms == set()
