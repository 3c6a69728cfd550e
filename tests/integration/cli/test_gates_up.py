"""``antiphon up`` and ``apply`` of an application that is not ungated: checked by the worker, live without a person."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest
from tests.harness.ports import free_port
from tests.integration.cli.conftest import run_in
from tests.integration.cli.test_up import QUESTION, key


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gates")
    assert run_in(folder)("init", "mydesk", "--port", str(free_port()), "--json").code == 0
    settings = folder / "mydesk" / "antiphon.toml"
    settings.write_text(settings.read_text().replace("[engine]", '[engine]\nkind = "simulated"'))
    definitions = folder / "mydesk" / "definitions.py"
    # The simulated model writes whatever the schema permits, labels that a probe asked for among it.
    off = ", ".join(f"{name}_share=None" for name in ("injected", "leaked", "pii", "toxic"))
    declared = 'Application(\n    "desk",\n'
    text = definitions.read_text().replace(declared, f"{declared}    gates=Gates({off}),\n")
    definitions.write_text(text.replace("    Freshness,\n", "    Freshness,\n    Gates,\n    SLO,\n"))
    return folder / "mydesk"


def test_the_first_release_goes_live_by_itself_and_a_bad_one_does_not(project, antiphon, up) -> None:
    answer = httpx2.post(
        f"http://127.0.0.1:{up.port}/v1/chat/completions", json=QUESTION, headers=key(project), timeout=30
    )
    assert answer.status_code == 200, answer.text
    (first,) = antiphon("releases", "list", "--json").json()
    assert first["stage"] == "live"
    shown = antiphon("releases", "show", first["release"], "--json").json()
    assert shown["check"] == "went live: every gate passed that needs no evaluation set"
    assert [stage["stage"] for stage in shown["stages"]] == ["draft", "validated", "live"]

    definitions = project / "definitions.py"
    sound = definitions.read_text()
    definitions.write_text(sound.replace('    slo=SLO(ttft_p99="10s", latency_p99="20s"),', "    slo=SLO(tokens=1),"))
    refused = antiphon("apply")
    assert refused.code != 0
    assert re.search(r"desk: release 2 did not pass its gates: An answer takes \d+ tokens, at most 1 may", refused.err)
    assert "antiphon releases activate desk" in refused.err
    stages = {line["number"]: line["stage"] for line in antiphon("releases", "list", "--json").json()}
    assert stages == {1: "live", 2: "draft"}
    assert "desk: release 2 did not pass its gates" in antiphon("status").out
    definitions.write_text(sound)
    assert antiphon("apply").code == 0
    assert "did not pass" not in antiphon("status").out
