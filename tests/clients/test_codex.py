"""Codex, unmodified: it asks ``/v1/responses``, streamed, with its own functions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.clients.conftest import Platform, run

pytestmark = pytest.mark.clients

CONFIGURATION = """
model = "{model}"
model_provider = "antiphon"
web_search = "disabled"
approval_policy = "never"
sandbox_mode = "read-only"

[model_providers.antiphon]
name = "Antiphon"
base_url = "{base_url}"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0

[analytics]
enabled = false
"""


def test_codex_asks_a_question(clients: Path, simulated: Platform, tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(CONFIGURATION.format(model=simulated.model, base_url=simulated.base_url))
    codex = clients / "node" / "node_modules" / ".bin" / "codex"
    written = run(
        codex, "exec", "--json", "--skip-git-repo-check", "--cd", work, "Is the flight late?",
        environment=simulated.environment(CODEX_HOME=str(home)),
    )  # fmt: skip
    events = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    assert [event["type"] for event in events][-1] == "turn.completed", written
    said = [event["item"]["text"] for event in events if event.get("item", {}).get("type") == "agent_message"]
    assert said, written
