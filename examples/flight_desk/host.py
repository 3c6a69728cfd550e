"""A project folder for the replay, and the platform that runs on it as a child process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2

from antiphon.core import settings as project_settings
from antiphon.core.child_process import die_with_parent, start_child, unwind_on_termination
from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.core.tls import gateway_url, own_client
from antiphon.operations.listening import require_free_port
from examples.flight_desk import data
from examples.flight_desk.data import Events
from examples.flight_desk.desk_client import Platform

HERE = Path(__file__).parent
READY_WITHIN = 120.0
"""Seconds the platform may take to become ready."""

Say = Callable[[str], None]


class CommandError(AntiphonError):
    """A command of ``antiphon`` ended with an error."""


def prepare(folder: Path, events: Events, start: datetime) -> Path:
    """Make the project folder: the example's definitions and settings, and as history what was known at ``start``."""
    project = folder / "project"
    project.mkdir(parents=True, exist_ok=True)
    for name in ("definitions.py", project_settings.FILE_NAME):
        shutil.copyfile(HERE / name, project / name)
    sources = project / "sources"
    if not (sources / "weather.parquet").exists():
        data.write_history(events, start, sources)
    return project


def forget(folder: Path) -> None:
    """Remove an earlier run: its answers, its project and all the platform's state in it."""
    shutil.rmtree(folder, ignore_errors=True)


def same_declaration(folder: Path) -> bool:
    """Whether an earlier run in this folder was made from the present definitions and configuration; marks it so.

    Answers to other prompts, or of another demand, must never be analysed as if they were this run's.
    """
    declared = hashlib.sha256()
    for name in ("definitions.py", "config.toml"):
        declared.update((HERE / name).read_bytes())
    mark, present = folder / "declared.sha256", declared.hexdigest()
    if folder.exists():
        return mark.exists() and mark.read_text(encoding="ascii") == present
    folder.mkdir(parents=True)
    mark.write_text(present, encoding="ascii")
    return True


@contextmanager
def running(project: Path, say: Say) -> Iterator[Platform]:
    """The platform on this project, from applied definitions to a drained end.

    Raises:
        CommandError: a command ended with an error, whose message is passed on.
        SetupError: its port is taken.
        UnavailableError: it did not become ready, or ended by itself.
    """
    settings, paths = project_settings.load(project)
    require_free_port(settings.gateway.host, settings.gateway.port)
    say("weights: smollm2-135m")
    asyncio.run(command("models", "pull", "smollm2-135m"))
    say("definitions: apply")
    asyncio.run(command("apply", "--project", str(project)))
    url, client = gateway_url(settings), own_client(settings, paths.root)
    log = paths.logs / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    say("platform: up")
    with log.open("ab") as output:
        child = start_child(
            [*_ANTIPHON, "up", "--project", str(project)],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        verify = True if client is None else client.context()
        _wait_ready(child, url, log, verify)
        say(f"platform: ready at {url}")
        yield Platform(url, (paths.keys / "admin.key").read_text(encoding="utf-8").strip(), verify)
    finally:
        if child.poll() is None:
            say("platform: draining")
            child.send_signal(signal.SIGTERM)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(5)


def _wait_ready(child: subprocess.Popen[bytes], url: str, log: Path, verify: Any) -> None:
    deadline, reason = time.monotonic() + READY_WITHIN, "no answer yet"
    with httpx2.Client(timeout=2.0, verify=verify) as client:
        while time.monotonic() < deadline:
            if child.poll() is not None:
                last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
                raise UnavailableError(f"It ended with {child.returncode}: {' '.join(last)}", where="antiphon up")
            try:
                reply = client.get(f"{url}/readyz")
                if reply.is_success:
                    return
                reason = reply.text[:300]
            except httpx2.TransportError as error:
                reason = type(error).__name__
            time.sleep(0.1)
    raise UnavailableError(
        f"It is not ready after {READY_WITHIN:.0f} s: {reason}.", where=url, next_step=f"Look at {log.parent}."
    )


_ANTIPHON = (sys.executable, "-m", "antiphon.cli.main")


async def command(*words: str, timeout: float = 600.0, say: Say | None = None) -> str:
    """Run one command of ``antiphon``; its standard output. ``say`` hears each line of its progress as it comes.

    A command that is no longer waited for is ended.

    Raises:
        CommandError: it ended with an error, or not within ``timeout`` seconds.
    """
    unwind_on_termination()
    heard: list[str] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        child = await asyncio.create_subprocess_exec(
            *die_with_parent([*_ANTIPHON, *words]),
            stdout=output,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"NO_COLOR": "1"},
        )
        try:
            assert child.stderr is not None
            async with asyncio.timeout(timeout):
                async for line in child.stderr:
                    heard.append(line.decode(errors="replace"))
                    if say is not None and heard[-1].strip():
                        say(heard[-1].strip())
                code = await child.wait()
        except TimeoutError:
            raise CommandError(f"It did not end within {timeout:.0f} s.", where=" ".join(words)) from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if code != 0:
            raise CommandError("".join(heard).strip() or f"It ended with {code}.", where=" ".join(words))
        output.seek(0)
        return output.read()
