"""One project with two unlike applications: made and warmed up once, and copied for each case with its past.

The past is the platform's own: the copy's rows of the history and of what was applied are moved in time, so that a case
begins an hour after the project was made and right after it was used, and detectors know what is usual.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import secrets
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.operations.faults.drafts import DRAFTS, BadDraft
from benchmarks.operations.faults.users import Users
from tests.chaos.harness.running import supervised
from tests.harness.ports import free_port
from tests.harness.ungated import declare_ungated

from antiphon.core.child_process import start_child

RATE = 2.0
"""Questions a second of each application."""

WARM_SECONDS = 130.0
_PERIOD = 10_000_000
_AGED = 3_600_000_000
"""Microseconds: of a period of the history, and by which what was applied and released is older in a copy."""

_SETTINGS = """
[worker]
nice = 0
[supervision]
silence = "15s"
"""


def program(*arguments: str) -> list[str]:
    """The words that run a command."""
    return [sys.executable, "-m", "antiphon.cli.main", *arguments]


def antiphon(root: Path, *arguments: str, code: int | None = 0) -> str:
    """Run a command in a project; what it prints. ``code``: that it has to end with, ``None`` for any.

    Raises:
        RuntimeError: it ended with another one.
    """
    process = start_child(
        program(*arguments), cwd=root, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OTEL_SDK_DISABLED": "true"},
    )  # fmt: skip
    out, err = (str(text, "utf-8") for text in process.communicate(timeout=120))
    if code is not None and process.returncode != code:
        raise RuntimeError(f"antiphon {' '.join(arguments)} ended with {process.returncode}: {err[-1_000:]}")
    return out


class FaultyProject:
    """A project in a folder of its own, at a port of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        settings = (root / "antiphon.toml").read_text(encoding="utf-8").splitlines()
        self.port = int(next(line.partition("=")[2] for line in settings if line.startswith("port")))
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self.root / ".antiphon" / "keys" / "admin.key").read_text(encoding="utf-8").strip()

    @property
    def catalog(self) -> Path:
        return self.root / ".antiphon" / "catalog.db"

    def pid(self, process: str) -> int:
        """The process id of a process of ``antiphon up``."""
        found = json.loads((self.root / ".antiphon" / "run" / f"{process}.pid").read_text(encoding="utf-8"))
        return int(found["pid"])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[subprocess.Popen[bytes]]:
        """``antiphon up`` while the block lasts."""
        with_spans = {"OTEL_SDK_DISABLED": "true"}
        async with supervised(self.root, self.url, drain_seconds=25.0, environment=with_spans) as process:
            yield process


async def make(folder: Path, warm_seconds: float = WARM_SECONDS, drafts: bool = True) -> Path:
    """The project in a folder, made and used for so long; its path.

    Args:
        drafts: bad releases are recorded, which faults make live. Without them no text is cut off, which the simulated
            engine's now and then are: a refusal that no fault made.

    Raises:
        RuntimeError: users are not answered without a fault either.
    """
    root = folder / "triage"
    for name in ("triage", "desk"):
        antiphon(folder, "init", name, "--blueprint", name, "--port", str(free_port()), "--json")
    declare_ungated(folder / "desk", "users ask at once")
    definitions = root / "definitions.py"
    text = definitions.read_text(encoding="utf-8").replace('refresh="1h"', 'refresh="30s"')
    desk = (folder / "desk" / "definitions.py").read_text(encoding="utf-8")
    text += desk.replace('reuse=Reuse("fingerprint")', 'reuse=Reuse("never", identical_prompts=False)')
    definitions.write_text(text if drafts else re.sub(r"max_tokens=\d+", "max_tokens=400", text), encoding="utf-8")
    for table in ("orders.csv", "shops.csv"):
        shutil.copy(folder / "desk" / table, root / table)
    settings = root / "antiphon.toml"
    changed = settings.read_text(encoding="utf-8").replace("[engine]", '[engine]\nkind = "simulated"')
    settings.write_text(changed.replace("[gateway]", "[gateway]\nmax_in_flight = 48") + _SETTINGS, encoding="utf-8")
    project = FaultyProject(root)
    async with project.running():
        users = Users(project.url, project.key, random.Random(1), RATE)
        await asyncio.wait_for(users.until_answered(), 120)
        load = asyncio.create_task(users.ask())
        await asyncio.sleep(warm_seconds)
        load.cancel()
    statuses = Counter(one.status for one in users.asked)
    if statuses[200] < 0.8 * statuses.total():
        raise RuntimeError(f"Questions fail in a project without a fault: {dict(statuses)}")
    for name, draft in DRAFTS.items() if drafts else ():
        _draft(root, name, draft)
    return root


def _draft(root: Path, name: str, draft: BadDraft) -> None:
    """Record a bad release that is not live, and leave its id in ``bad-NAME``."""
    definitions = root / "definitions.py"
    sound = definitions.read_text(encoding="utf-8")
    if draft.sound not in sound:
        raise RuntimeError(f"The definitions have no {draft.sound!r}.")
    before = {one["release"] for one in _releases(root, draft.application)}
    definitions.write_text(sound.replace(draft.sound, draft.spoiled, 1), encoding="utf-8")
    antiphon(root, "apply", "--no-activate", "--json", code=None)
    definitions.write_text(sound, encoding="utf-8")
    made = [one for one in _releases(root, draft.application) if one["release"] not in before]
    if len(made) != 1 or made[0]["stage"] == "live":
        raise RuntimeError(f"No draft of {draft.application} was made of the bad definitions {name!r}.")
    (root / f"bad-{name}").write_text(made[0]["release"], encoding="utf-8")


def _releases(root: Path, application: str) -> list[dict[str, str]]:
    listed: list[dict[str, str]] = json.loads(antiphon(root, "releases", "list", application, "--json"))
    return listed


@asynccontextmanager
async def small_disk(folder: Path, megabytes: int = 400) -> AsyncIterator[None]:
    """A file system of its own at a folder, as root.

    Raises:
        RuntimeError: it cannot be mounted here.
    """
    mounted = await asyncio.to_thread(
        subprocess.run, ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        raise RuntimeError(f"A small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "-l", str(folder)], check=False)


@asynccontextmanager
async def copied(template: Path, disk_megabytes: int | None = None) -> AsyncIterator[FaultyProject]:
    """A copy of the project beside it while the block lasts, at another port, whose past ended just now.

    Args:
        disk_megabytes: it has a file system of its own, of this size.
    """
    # A catalog names the files of sources by whole paths; one of the same length takes the place of the template's.
    folder = template.parent.with_name(secrets.token_hex(len(template.parent.name) // 2))
    folder.mkdir()
    try:
        async with AsyncExitStack() as stack:
            if disk_megabytes is not None:
                await stack.enter_async_context(small_disk(folder, disk_megabytes))
            yield await asyncio.to_thread(_copy, template, folder / template.name)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _copy(template: Path, root: Path) -> FaultyProject:
    shutil.copytree(template, root, ignore=shutil.ignore_patterns("*.sock", "logs", "up.log", "run"))
    settings = root / "antiphon.toml"
    lines = settings.read_text(encoding="utf-8").splitlines()
    moved = [f"port = {free_port()}" if line.startswith("port") else line for line in lines]
    settings.write_text("\n".join(moved) + "\n", encoding="utf-8")
    project = FaultyProject(root)
    _move_past(project.catalog, os.fsencode(template), os.fsencode(root))
    return project


_PATHS = (("applied_projects", "document"), ("definition_versions", "document"), ("releases", "bundle"))
_AGES = (("applied_projects", "created_at"), ("release_pointers", "at"))


def _move_past(catalog: Path, before: bytes, after: bytes) -> None:
    assert len(before) == len(after)
    connection = sqlite3.connect(catalog)
    connection.create_function("moved", 1, lambda value: value.replace(before, after), deterministic=True)
    with connection:
        newest = connection.execute("SELECT max(at) FROM measurements WHERE period = 10").fetchone()[0]
        by = (time.time_ns() // 1_000 - newest) // _PERIOD * _PERIOD
        # By way of negative moments: a row must not land on one that is still to be moved.
        connection.execute("UPDATE measurements SET at = -(at + ?) WHERE period = 10", (by,))
        connection.execute("UPDATE measurements SET at = -at WHERE period = 10")
        connection.execute("DELETE FROM measurements WHERE period <> 10")
        for table, column in _AGES:
            connection.execute(f"UPDATE {table} SET {column} = {column} - {_AGED}")
        for table, column in _PATHS:
            connection.execute(f"UPDATE {table} SET {column} = moved({column})")
    connection.close()
