"""LangChain's client for OpenAI's API, unmodified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.clients.conftest import EMBEDDING_MODEL, PROGRAMS, Platform, run_json

pytestmark = pytest.mark.clients


def asking(clients: Path, platform: Platform) -> Callable[[str], Any]:
    def case(name: str) -> Any:
        return run_json(
            clients / "python" / "bin" / "python",
            PROGRAMS / "langchain_openai_client.py",
            name,
            platform.model,
            EMBEDDING_MODEL,
            environment=platform.environment(LANGSMITH_TRACING="false"),
        )

    return case


@pytest.fixture
def langchain(clients: Path, simulated: Platform) -> Callable[[str], Any]:
    """Runs a case of the program."""
    return asking(clients, simulated)


def test_chat_streaming_and_batch(langchain: Callable[[str], Any], simulated: Platform) -> None:
    made = langchain("invoke")
    assert made["text"]
    assert made["model"] == simulated.model
    assert made["usage"]["total_tokens"] == made["usage"]["input_tokens"] + made["usage"]["output_tokens"]
    streamed = langchain("stream")
    assert streamed["text"] == made["text"]
    assert streamed["parts"] > 1
    assert langchain("batch") == [made["text"]] * 2


def test_structured_output(langchain: Callable[[str], Any]) -> None:
    made = langchain("structured")
    assert made["outlook"] in ("on_time", "delayed")


def test_tools(langchain: Callable[[str], Any], simulated: Platform) -> None:
    made = langchain("tools")
    assert made["name"] == "delay_of"
    assert isinstance(made["arguments"]["flight"], str)
    assert made["answer"]


def test_responses(langchain: Callable[[str], Any]) -> None:
    made = langchain("responses")
    assert made["text"] == made["streamed"] != ""
    assert made["id"].startswith("pred_")


def test_logprobs(langchain: Callable[[str], Any]) -> None:
    assert langchain("logprobs") > 0


@pytest.mark.model
def test_embeddings_mean_what_the_model_means(clients: Path, real: Platform) -> None:
    made = asking(clients, real)("embeddings")
    assert made["size"] == 384
    assert made["near"] > 0.6
    assert made["far"] < 0.2
    assert made["same"]
