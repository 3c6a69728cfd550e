"""OpenAI's client for Node, unmodified."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.clients.conftest import EMBEDDING_MODEL, PROGRAMS, Platform, run_json

pytestmark = pytest.mark.clients


@pytest.fixture
def node(clients: Path, simulated: Platform) -> Callable[[str], Any]:
    """Runs a case of the program."""
    program = shutil.which("node")
    if program is None:
        if os.environ.get("ANTIPHON_REQUIRE_CLIENTS") == "1":
            pytest.fail("node is not installed")
        pytest.skip("node is not installed")
    environment = simulated.environment(NODE_PATH=str(clients / "node" / "node_modules"))

    def case(name: str) -> Any:
        return run_json(
            program, PROGRAMS / "openai_node.cjs", name, simulated.model, EMBEDDING_MODEL, environment=environment
        )

    return case


def test_chat_and_streaming(node: Callable[[str], Any]) -> None:
    whole = node("chat")
    assert whole["choice"]["message"]["role"] == "assistant"
    assert whole["usage"]["total_tokens"] == whole["usage"]["prompt_tokens"] + whole["usage"]["completion_tokens"]
    streamed = node("streaming")
    assert streamed["text"] == whole["choice"]["message"]["content"] != ""
    assert streamed["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_structured_output(node: Callable[[str], Any]) -> None:
    made = node("structured")
    assert made["outlook"] in ("on_time", "delayed")
    assert isinstance(made["minutes"], int)


def test_completions(node: Callable[[str], Any]) -> None:
    assert node("completions")


def test_tools(node: Callable[[str], Any], simulated: Platform) -> None:
    made = node("tools")
    assert (made["reason"], made["call"]["name"]) == ("tool_calls", "delay_of")
    assert made["answer"]
    assert (made["streamed"]["name"], made["streamed"]["arguments"]) == ("delay_of", made["call"]["arguments"])


def test_several_choices(node: Callable[[str], Any], simulated: Platform) -> None:
    assert node("several") == [0, 1, 2]


def test_logprobs(node: Callable[[str], Any]) -> None:
    made = node("logprobs")
    assert "".join(token["token"] for token in made["tokens"]) == made["text"]
    assert all(len(token["top_logprobs"]) == 2 for token in made["tokens"])


def test_embeddings(node: Callable[[str], Any]) -> None:
    made = node("embeddings")
    assert made == {"sizes": [384, 384], "same": True, "usage": {"prompt_tokens": 4, "total_tokens": 4}}


def test_models_and_files(node: Callable[[str], Any], simulated: Platform) -> None:
    names = ["desk", simulated.model, EMBEDDING_MODEL]
    assert node("models") == {"names": names, "one": simulated.model}
    assert node("files") == {"content": "{}\n", "listed": True, "deleted": True}


def test_batches(node: Callable[[str], Any]) -> None:
    chats = node("batches")
    assert chats["counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert [line["custom_id"] for line in chats["lines"]] == ["r0", "r1", "r2"]
    vectors = node("embedding_batches")
    assert vectors["counts"]["completed"] == 1
    assert [len(one["embedding"]) for one in vectors["lines"][0]["response"]["body"]["data"]] == [384, 384]


def test_errors_are_the_clients_own(node: Callable[[str], Any]) -> None:
    assert node("errors") == [
        ["NotFoundError", 404, "model"],
        ["BadRequestError", 400, "temprature"],
        ["BadRequestError", 400, "input"],
        ["AuthenticationError", 401, "Authorization"],
    ]
