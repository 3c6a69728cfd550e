"""Real servers for tests: each on a free port of loopback, in a folder of its own, ended by its process id.

A server that is not installed skips the test; with ANTIPHON_REQUIRE_SERVERS=1 it fails it. ``scripts/servers`` installs
them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

STARTS_WITHIN = 30.0
_SBIN = ("/usr/sbin", "/usr/local/sbin")


def program(name: str, *folders: str) -> str:
    """Where a server's program is; without it the test is skipped, or fails when servers are required."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *_SBIN, *folders]))
    if found is None:
        if os.environ.get("ANTIPHON_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{name} is not installed; run scripts/servers")
        pytest.skip(f"{name} is not installed; run scripts/servers")
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def until(condition: Callable[[], object], within: float = STARTS_WITHIN) -> None:
    """Wait for a condition; an assertion when it does not come true."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


class ServerProcess:
    """One server, started by :meth:`start` and ended by :meth:`stop` or :meth:`kill`; it may be started again."""

    def __init__(self, prefix: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"antiphon-{prefix}-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        with socket.socket() as trial:
            trial.settimeout(1)
            return trial.connect_ex(("127.0.0.1", self.port)) == 0

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(self._answers_or_ended)

    def _answers_or_ended(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.command()[0]} ended: {(self.folder / 'log').read_text()[-2000:]}")
        return self.answers()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def stop(self) -> None:
        self.end(signal.SIGTERM)

    def end(self, number: int) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(number)
            self.process.wait(timeout=30)
            self.process = None

    def remove(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=30)
            self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisProcess(ServerProcess):
    """``redis-server`` or ``valkey-server``, in memory alone unless it is asked to save."""

    def __init__(self, program_name: str = "redis-server", *options: str) -> None:
        self.program = program(program_name)
        super().__init__(program_name.partition("-")[0])
        self.options = options

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return [self.program, *place, "--save", "", *self.options]

    def answers(self) -> bool:
        import redis

        with redis.Redis(port=self.port, socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except redis.RedisError:
                return False
