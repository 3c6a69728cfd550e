"""``antiphon up`` with an engine that is stopped while nobody needs it: what clients and people are told."""

from __future__ import annotations

from pathlib import Path
from time import monotonic, sleep

import httpx2
import pytest
from tests.harness.ports import free_port
from tests.harness.ungated import declare_ungated
from tests.integration.cli.conftest import Run, Up, run_in
from tests.integration.cli.test_up import QUESTION, key

from antiphon.cli.doctor import _engines

STOPPED = "stopped: nobody needs it, starts in about "


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scaled")
    assert run_in(folder)("init", "mydesk", "--port", str(free_port()), "--json").code == 0
    settings = folder / "mydesk" / "antiphon.toml"
    text = settings.read_text().replace("[engine]", '[engine]\nkind = "simulated"')
    settings.write_text(text + '\n[scaling]\nidle = "500ms"\n')
    declare_ungated(folder / "mydesk")
    return folder / "mydesk"


def until_stopped(url: str, project: Path) -> str:
    deadline = monotonic() + 60
    while True:
        processes = httpx2.get(f"{url}/admin/status", headers=key(project), timeout=10).json()["processes"]
        (engine,) = [one for one in processes if one["name"] == "engine"]
        if engine["state"] == "stopped":
            return f"{engine['state']}: {engine['detail']}"
        assert monotonic() < deadline, engine
        sleep(0.02)


def starts_of_engine(up: Up) -> int:
    return sum((line.get("process"), line.get("event")) == ("engine", "starting") for line in up.told())


def test_the_first_request_waits_and_is_told_and_status_says_why(project: Path, antiphon: Run, up: Up) -> None:
    url = f"http://127.0.0.1:{up.port}"
    assert until_stopped(url, project).startswith(STOPPED)
    starts = starts_of_engine(up)
    assert STOPPED in antiphon("status").out
    assert _engines(project).startswith("engine stopped: nobody needs it")
    ready = httpx2.get(f"{url}/readyz", timeout=10)
    assert ready.status_code == 200
    assert ready.json()["notices"]["engine"].startswith(STOPPED)
    assert "is stopped because nobody needs it" in antiphon("restart", "engine").err
    assert starts_of_engine(up) == starts, "to look at it started it"

    whole = httpx2.post(f"{url}/v1/chat/completions", json=QUESTION, headers=key(project), timeout=60)
    assert whole.status_code == 200, whole.text
    waited = float(whole.headers["x-antiphon-start-seconds"])
    made = whole.json()["antiphon"]
    assert made["start_seconds"] == pytest.approx(waited, abs=0.001)
    assert waited > 0
    assert antiphon("explain", made["prediction"], "--json").json()["timing"]["start"] == pytest.approx(
        waited, abs=1e-3
    )

    until_stopped(url, project)
    (project / "shops.csv").write_text("shop\nbakery\ntea\n")
    run = antiphon("batch", "run", "desk", "--input", "shops.csv", "--output", "answers.jsonl", "--json")
    assert (run.code, run.json()["rows_done"], run.json()["rows_failed"]) == (0, 2, 0), run.err

    until_stopped(url, project)
    assert up.stop() == 0
    assert not (project / ".antiphon" / "run" / "engine.sock").is_symlink()
