"""OpenAI's Agents SDK, unmodified: it asks ``/v1/responses``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.clients.conftest import PROGRAMS, Platform, run_json

pytestmark = pytest.mark.clients


@pytest.fixture
def agents(clients: Path, simulated: Platform) -> Callable[[str], Any]:
    """Runs a case of the program."""

    def case(name: str) -> Any:
        return run_json(
            clients / "python" / "bin" / "python",
            PROGRAMS / "openai_agents_client.py",
            name,
            simulated.model,
            environment=simulated.environment(OPENAI_AGENTS_DISABLE_TRACING="1"),
        )

    return case


def test_a_run_and_what_it_left(agents: Callable[[str], Any], client: openai.OpenAI) -> None:
    made = agents("run")
    assert made["text"]
    stored = client.responses.retrieve(made["response"])
    assert (stored.output_text, stored.metadata) == (made["text"], {"team": "desk"})
    assert stored.usage is not None
    assert stored.usage.total_tokens == made["tokens"]


def test_a_stream(agents: Callable[[str], Any]) -> None:
    made = agents("stream")
    assert made["text"] == made["final"] != ""
    assert made["kinds"][:2] == ["response.created", "response.in_progress"]
    assert made["kinds"][-1] == "response.completed"


def test_structured_output(agents: Callable[[str], Any]) -> None:
    made = agents("structured")
    assert made["outlook"] in ("on_time", "delayed")
    assert isinstance(made["minutes"], int)


def test_tools(agents: Callable[[str], Any]) -> None:
    made = agents("tools")
    assert made["items"] == ["tool_call_item", "tool_call_output_item"]
    assert made["output"] == 12 or made["output"] == "12"
    assert made["answer"]


def test_a_conversation_by_id_is_the_one_by_turns(agents: Callable[[str], Any]) -> None:
    assert agents("conversation")["same"] == [True, True]
