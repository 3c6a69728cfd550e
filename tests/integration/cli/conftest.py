"""The program as a user runs it, over a project made by ``antiphon init``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from tests.harness import warm_program
from tests.harness.ports import free_port
from tests.harness.ungated import declare_ungated

from antiphon.core.child_process import start_child

PROGRAM = (sys.executable, "-m", "antiphon.cli.main")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


def run_in(folder: Path) -> Run:
    def run(*arguments: str, **environment: str) -> Ran:
        done = subprocess.run(
            [*warm_program.PROGRAM, *arguments],
            cwd=folder,
            env={**os.environ, **warm_program.environment(), "OTEL_SDK_DISABLED": "true", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project whose engine is simulated, so that no weights are needed."""
    folder = tmp_path_factory.mktemp("cli")
    port = free_port()
    made = run_in(folder)("init", "mydesk", "--port", str(port), "--json")
    assert made.code == 0, made.err
    settings = folder / "mydesk" / "antiphon.toml"
    settings.write_text(settings.read_text().replace("[engine]", '[engine]\nkind = "simulated"'))
    declare_ungated(folder / "mydesk")
    return folder / "mydesk"


@pytest.fixture
def antiphon(project: Path) -> Run:
    return run_in(project)


class Up:
    """``antiphon up --json`` and what it has told."""

    def __init__(self, project: Path, **environment: str) -> None:
        self.port = int(
            next(
                line.split("=")[1]
                for line in (project / "antiphon.toml").read_text().splitlines()
                if line.startswith("port")
            )
        )
        self.told_file = project.parent / "up.jsonl"
        self._out = self.told_file.open("w+")
        self.process = start_child(
            [*PROGRAM, "up", "--json"],
            cwd=project,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OTEL_SDK_DISABLED": "true", **environment},
            start_new_session=True,
        )

    def told(self) -> list[dict[str, Any]]:
        lines = self.told_file.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def until(self, condition: Callable[[list[dict[str, Any]]], bool], seconds: float = 240) -> None:
        end = monotonic() + seconds
        while not condition(self.told()):
            assert self.process.poll() is None, self.told_file.read_text()
            assert monotonic() < end, self.told_file.read_text()
            sleep(0.02)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(40)
        finally:
            self._out.close()
            if self.process.poll() is None:
                self.process.kill()


@pytest.fixture
def up(project: Path) -> Iterator[Up]:
    started = Up(project)
    try:
        started.until(lambda told: any(line.get("event") == "up" for line in told))
        yield started
    finally:
        started.stop()
