"""Platforms as ``antiphon up`` starts them, and the clients that are pointed at them, unmodified.

Clients other than OpenAI's in Python come from the environment that ``scripts/client-environment`` makes. Where it is
absent their tests are skipped and say so; with ``ANTIPHON_REQUIRE_CLIENTS=1`` they fail.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.chaos.harness.chaos_project import write_project
from tests.chaos.harness.running import scratch, supervised

from antiphon.core.errors import SetupError
from antiphon.engine import weights

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
EMBEDDING_MODEL = "minilm-l6-v2"
SECONDS = 400


@dataclass(frozen=True)
class Platform:
    """A running platform; ``model`` is a plain one."""

    url: str
    key: str
    model: str

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def environment(self, **more: str) -> dict[str, str]:
        """How its address and key are told to a client that reads the usual variables."""
        return {**os.environ, "OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": self.key, **more}


@contextmanager
def running(kind: str) -> Iterator[Platform]:
    with asyncio.Runner() as runner, scratch() as folder:
        project = write_project(Path(folder) / "project", kind)
        settings = project.root / "antiphon.toml"
        text = settings.read_text()
        # Codex sends instructions and functions of 40,000 characters.
        context = "context = 4096\n" if kind == "simulated" else ""
        settings.write_text(text.replace("[engine]", f'[engine]\n{context}embedding_models = ["{EMBEDDING_MODEL}"]'))
        up = supervised(project.root, project.url)
        runner.run(up.__aenter__())
        try:
            yield Platform(project.url, project.key, project.model)
        finally:
            runner.run(up.__aexit__(None, None, None))


@pytest.fixture(scope="package")
def simulated() -> Iterator[Platform]:
    """With the simulated engine: what it writes means nothing, and everything round it is real."""
    with running("simulated") as platform:
        yield platform


@pytest.fixture(scope="package")
def real() -> Iterator[Platform]:
    """With llama.cpp, for what a client reads in the content."""
    try:
        for model in ("smollm2-135m", EMBEDDING_MODEL):
            weights.pull(model)
    except SetupError as error:
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            raise
        pytest.skip(str(error))
    with running("llamacpp") as platform:
        yield platform


@pytest.fixture
def client(simulated: Platform) -> Iterator[openai.OpenAI]:
    """OpenAI's own client in Python."""
    with openai.OpenAI(base_url=simulated.base_url, api_key=simulated.key, max_retries=0) as made:
        yield made


@functools.cache
def installed() -> Path | str:
    """The folder of the clients' environment, or why there is none."""
    script = ROOT / "scripts" / "client-environment"
    ended = subprocess.run([str(script), "--if-there"], capture_output=True, text=True, timeout=60)
    if ended.returncode == 0:
        return Path(ended.stdout.strip())
    return "The clients are not there; `scripts/client-environment` installs them."


@pytest.fixture(scope="session")
def clients() -> Path:
    """The folder of the clients' environment."""
    found = installed()
    if isinstance(found, Path):
        return found
    if os.environ.get("ANTIPHON_REQUIRE_CLIENTS") == "1":
        pytest.fail(found)
    pytest.skip(found)


def run(*command: str | Path, environment: dict[str, str], fails: bool = False) -> str:
    """What a client writes; it must end well unless it ``fails``, and then its errors are there too."""
    ended = subprocess.run(
        [str(part) for part in command], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=SECONDS,
    )  # fmt: skip
    assert (ended.returncode != 0) is fails, f"{ended.stdout[-3000:]}\n{ended.stderr[-6000:]}"
    return ended.stdout + ended.stderr if fails else ended.stdout


def run_json(*command: str | Path, environment: dict[str, str]) -> Any:
    """The JSON in the last line of what a client writes."""
    return json.loads(run(*command, environment=environment).splitlines()[-1])
