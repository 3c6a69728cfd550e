"""The run's folder: answers are kept only for the definitions and the configuration they were made from."""

from __future__ import annotations

import asyncio
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from examples.flight_desk import host

from antiphon.core.errors import SetupError


def test_a_folder_is_kept_until_what_is_declared_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example, folder = tmp_path / "example", tmp_path / "out"
    example.mkdir()
    monkeypatch.setattr(host, "HERE", example)
    for name in ("definitions.py", "config.toml"):
        (example / name).write_text("first")
    assert host.same_declaration(folder)
    assert host.same_declaration(folder)
    (example / "config.toml").write_text("second")
    assert not host.same_declaration(folder)
    host.forget(folder)
    assert host.same_declaration(folder)


def test_a_folder_of_unknown_make_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text("")
    assert not host.same_declaration(tmp_path)


def test_a_command_that_fails_passes_its_message_on() -> None:
    with pytest.raises(host.CommandError, match="models pull"):
        asyncio.run(host.command("models", "pull", "no-such-model"))


def test_a_command_tells_its_progress_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; print('one of two', file=sys.stderr); print('two of two', file=sys.stderr); print('done')"
    monkeypatch.setattr(host, "_ANTIPHON", (sys.executable, "-c", program))
    heard: list[str] = []
    assert asyncio.run(host.command("train", say=heard.append)) == "done\n"
    assert heard == ["one of two", "two of two"]


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_ANTIPHON", (sys.executable, "-c", "import time; time.sleep(60)"))
    with pytest.raises(host.CommandError, match="did not end within"):
        asyncio.run(host.command("train", timeout=0.5))


async def test_a_command_that_is_no_longer_waited_for_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)"
    monkeypatch.setattr(host, "_ANTIPHON", (sys.executable, "-c", program))
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    command = asyncio.create_task(host.command("train", say=heard.set_result))
    pid = int(await asyncio.wait_for(heard, 20))
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
    assert not psutil.pid_exists(pid)


def test_another_platform_on_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        (tmp_path / "antiphon.toml").write_text(f"[gateway]\nport = {other.server_port}\n")
        with pytest.raises(SetupError, match="already in use"), host.running(tmp_path, lambda text: None):
            pass
        other.shutdown()
