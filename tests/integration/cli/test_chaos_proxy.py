"""A fault between the platform and a real server: Redis behind a proxy is slow, then cut off, beside questions."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.harness.ports import free_port
from tests.harness.ungated import declare_ungated
from tests.integration.cli.conftest import PROGRAM, Up, run_in
from tests.servers import RedisProcess

from antiphon.core.child_process import start_child


def experiment(fault: str, proxy: str = "redis", **arguments: Any) -> dict[str, Any]:
    def own(func: str, **given: Any) -> dict[str, Any]:
        return {"type": "python", "module": "antiphon.chaos", "func": func, "arguments": given}

    def probe(name: str, low: float, high: float, func: str, **given: Any) -> dict[str, Any]:
        tolerance = {"type": "range", "range": [low, high]}
        return {"type": "probe", "name": name, "tolerance": tolerance, "provider": own(func, **given)}

    return {
        "title": f"Redis: {fault}",
        "description": "The online store is behind a proxy.",
        "steady-state-hypothesis": {
            "title": "Answers in time",
            "probes": [
                probe("errors", 0, 0, "error_share", window="2s"),
                probe("latency", 0, 1, "latency", window="2s", percentile=50),
            ],
        },
        "method": [
            {"type": "action", "name": fault, "provider": own(fault, proxy=proxy, **arguments)},
        ],
        "runtime": {"hypothesis": {"strategy": "continuously", "frequency": 0.3}},
        "extensions": [
            {
                "name": "antiphon",
                "blast-radius": {"proxies": [proxy]},
                "degraded-mode": {
                    "title": "late, or refused with a reason",
                    "longest": "60s",
                    "probes": [probe("unexplained", 0, 0, "unexplained_share", window="2s")],
                },
                "questions": {"rate": 5, "timeout": "5s"},
                "settle": "60s",
            }
        ],
    }


def test_a_slow_store_and_one_that_is_cut_off_are_met_and_told(tmp_path: Path) -> None:
    with RedisProcess() as redis:
        own, antiphon = free_port(), run_in(tmp_path)
        assert antiphon("init", "mydesk", "--port", str(free_port()), "--json").code == 0
        project = tmp_path / "mydesk"
        settings = project / "antiphon.toml"
        text = settings.read_text().replace("[engine]", '[engine]\nkind = "simulated"')
        settings.write_text(
            f'{text}\n[worker]\nnice = 0\n[features]\nonline = "redis://127.0.0.1:{own}/0"\n'
            f'[proxies.redis]\nlisten = "127.0.0.1:{own}"\nserver = "127.0.0.1:{redis.port}"\n'
        )
        declare_ungated(project)
        (project / "chaos").mkdir()
        slow = experiment("delay_port", duration="4s", delay="1500ms")
        (project / "chaos" / "slow.json").write_text(json.dumps(slow))
        (project / "chaos" / "cut.json").write_text(json.dumps(experiment("partition_port", "*", duration="4s")))
        antiphon = run_in(project)
        listed = {one["name"]: one for one in antiphon("chaos", "list", "--json").json()}
        assert "start `antiphon chaos proxy`" in listed["slow"]["obstacles"][0]
        proxy = start_child([*PROGRAM, "chaos", "proxy", "--json"], cwd=project, stdout=subprocess.PIPE, env=os.environ)
        try:
            assert proxy.stdout.readline() == b"{\n"
            up = Up(project)
            try:
                up.until(lambda told: any(line.get("event") == "up" for line in told))
                assert antiphon("features", "refresh", "--wait").code == 0
                refused = antiphon("chaos", "run", "expired-certificate")
                assert (refused.code, "no TLS passes any proxy (redis: other): reach its" in refused.err) == (4, True)
                assert "no HTTP passes" in antiphon("chaos", "run", "http-503", "--dry-run").out
                day = antiphon("chaos", "run", "slow", "cut", "--json")
                assert day.code == 0, (day.out, day.err)
                for one in day.json()["experiments"]:
                    assert one["status"] == "held", one
                    assert one["outside_seconds"] > 1, "the fault was not met at all"
                    assert one["recovered_after"] is not None
                    assert one["faults"][0]["touched"] == ["proxy redis"]
            finally:
                assert up.stop() == 0
        finally:
            proxy.terminate()
            proxy.communicate()
        assert proxy.returncode == 143
