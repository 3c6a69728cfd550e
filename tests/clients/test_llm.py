"""``llm``, Simon Willison's program for the terminal, unmodified."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.clients.conftest import Platform, run

pytestmark = pytest.mark.clients

MODELS = """\
- model_id: antiphon
  model_name: {model}
  api_base: {base_url}
  api_key_name: antiphon
  supports_schema: true
  supports_tools: true
- model_id: antiphon-completions
  model_name: {model}
  api_base: {base_url}
  api_key_name: antiphon
  completion: true
"""


@pytest.fixture
def llm(clients: Path, simulated: Platform, tmp_path: Path) -> Callable[..., str]:
    """Runs the program with a folder of its own."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        MODELS.format(model=simulated.model, base_url=simulated.base_url)
    )
    environment = simulated.environment(LLM_USER_PATH=str(tmp_path))
    del environment["OPENAI_BASE_URL"], environment["OPENAI_API_KEY"]
    program = clients / "python" / "bin" / "llm"

    def ask(*arguments: str, fails: bool = False) -> str:
        return run(program, *arguments, environment=environment, fails=fails)

    ask("keys", "set", "antiphon", "--value", simulated.key)
    return ask


def test_a_prompt_streamed_and_whole(llm: Callable[..., str]) -> None:
    asked = ("-m", "antiphon", "-s", "Be brief.", "-o", "temperature", "0", "Is the flight late?")
    streamed = llm(*asked)
    assert streamed.strip()
    assert llm(*asked, "--no-stream") == streamed
    logged = json.loads(llm("logs", "--json", "-n", "1"))[0]
    assert logged["response"].strip() == streamed.strip()
    assert logged["input_tokens"] > 0
    assert logged["output_tokens"] > 0


def test_a_conversation_goes_on(llm: Callable[..., str]) -> None:
    assert llm("-m", "antiphon", "Is the flight late?").strip()
    assert llm("-c", "And the next one?").strip()
    assert len({turn["conversation_id"] for turn in json.loads(llm("logs", "--json", "-n", "2"))}) == 1


def test_a_schema(llm: Callable[..., str]) -> None:
    made = json.loads(llm("-m", "antiphon", "--schema", "outlook, minutes int", "Is the flight late?"))
    assert isinstance(made["minutes"], int)
    assert set(made) == {"outlook", "minutes"}


def test_a_tool(llm: Callable[..., str], simulated: Platform) -> None:
    # Who writes at random calls again and again: the program ends the chain, and shows what it called and was told.
    asked = ("-m", "antiphon", "-T", "llm_version", "--td", "--chain-limit", "2", "--no-stream", "Which version is it?")
    said = llm(*asked, fails=True)
    assert "Tool call: llm_version(" in said
    assert "Chain limit of 2 exceeded" in said


def test_a_completion(llm: Callable[..., str]) -> None:
    assert llm("-m", "antiphon-completions", "-o", "max_tokens", "8", "The flight").strip()
