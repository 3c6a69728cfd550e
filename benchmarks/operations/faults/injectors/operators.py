"""Injectors of those who operate it: bad releases and settings, and ordinary work that harms nobody."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from benchmarks.operations.faults.injectors.injector import Injector, refreshed, released
from benchmarks.operations.faults.project import FaultyProject, antiphon
from benchmarks.operations.faults.users import Users

from antiphon.core.child_process import start_child


def slipped(process: str, sound: str, wrong: str) -> Injector:
    """A slip in the settings, which a process is told to begin anew with; it is put right afterwards."""

    async def act(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
        settings, end = project.root / "antiphon.toml", time.monotonic() + seconds
        before = settings.read_text(encoding="utf-8")
        if sound not in before:
            raise RuntimeError(f"The settings have no {sound!r}.")
        settings.write_text(before.replace(sound, wrong, 1), encoding="utf-8")
        try:
            await asyncio.to_thread(antiphon, project.root, "restart", process, "--json")
            await asyncio.sleep(max(0.0, end - time.monotonic()))
        finally:
            settings.write_text(before, encoding="utf-8")
            await asyncio.to_thread(antiphon, project.root, "restart", process, "--json", code=None)

    return act


def commanded(wrong: Sequence[str], undone: Sequence[str]) -> Injector:
    """A command with which somebody meant something else; another one takes it back."""

    async def act(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
        end = time.monotonic() + seconds
        try:
            await asyncio.to_thread(antiphon, project.root, *wrong, "--json")
            await asyncio.sleep(max(0.0, end - time.monotonic()))
        finally:
            await asyncio.to_thread(antiphon, project.root, *undone, "--json", code=None)

    return act


async def refresh_switched_off(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Somebody has the worker refresh nothing while a source is looked after, and forgets it for a while."""
    settings, end = project.root / "antiphon.toml", time.monotonic() + seconds
    before = settings.read_text(encoding="utf-8")
    settings.write_text(before.replace("[worker]", "[worker]\nrefresh = false", 1), encoding="utf-8")
    try:
        await asyncio.to_thread(antiphon, project.root, "restart", "worker", "--json")
        await asyncio.sleep(max(0.0, end - time.monotonic()))
    finally:
        settings.write_text(before, encoding="utf-8")
        with suppress(ProcessLookupError, FileNotFoundError, ValueError):
            os.kill(project.pid("worker"), signal.SIGTERM)


async def settings_torn(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """An editor dies while it writes the settings, and the gateway is told to begin anew before anybody sees it."""
    settings = project.root / "antiphon.toml"
    sound = settings.read_text(encoding="utf-8")
    settings.write_text(sound + "\n[gateway.", encoding="utf-8")
    try:
        os.kill(project.pid("gateway"), signal.SIGTERM)
        await asyncio.sleep(seconds)
    finally:
        settings.write_text(sound, encoding="utf-8")


async def source_misdirected(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A definition is applied by which the tickets are read from the table of the orders."""
    definitions, end = project.root / "definitions.py", time.monotonic() + seconds
    sound = definitions.read_text(encoding="utf-8")
    wrong = sound.replace('Source.table("opened", path="tickets.csv"', 'Source.table("opened", path="orders.csv"')
    if wrong == sound:
        raise RuntimeError("The definitions have no source of the tickets.")
    definitions.write_text(wrong, encoding="utf-8")
    try:
        order = ("apply", "--rationale", "one table for all", "--json")
        await asyncio.to_thread(antiphon, project.root, *order, code=None)
        await refreshed(project, max(0.0, end - time.monotonic()))
    finally:
        definitions.write_text(sound, encoding="utf-8")
        order = ("apply", "--rationale", "the tickets are read again", "--json")
        await asyncio.to_thread(antiphon, project.root, *order, code=None)


async def harmless_apply(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Another team owns a view from now on, and a comment says so."""
    definitions = project.root / "definitions.py"
    text = definitions.read_text(encoding="utf-8")
    changed = text.replace('refresh="30s", owner="support"', 'refresh="30s", owner="helpdesk"')
    definitions.write_text(f"{changed}\n# The helpdesk owns the tickets since today.\n", encoding="utf-8")
    await asyncio.to_thread(antiphon, project.root, "apply", "--rationale", "another owner", "--json")
    await asyncio.sleep(seconds)


async def table_answered_beside(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The night's tickets are sorted in batch, as on each morning; a row or two may have no answer, as ever."""
    order = ("batch", "run", "triage", "--input", "night.csv", "--output", "sorted.csv", "--json")
    await asyncio.to_thread(antiphon, project.root, *order, code=None)
    await asyncio.sleep(seconds)


async def backup_taken(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The catalog is copied by SQLite's own way, and the other files as they are."""

    def copy() -> None:
        with tempfile.TemporaryDirectory(prefix="antiphon-backup-") as folder:
            with (
                closing(sqlite3.connect(project.catalog)) as live,
                closing(sqlite3.connect(Path(folder) / "catalog.db")) as kept,
            ):
                live.backup(kept, pages=256, sleep=0.01)
            for name in ("lake", "online", "keys"):
                if (project.root / ".antiphon" / name).is_dir():
                    shutil.copytree(project.root / ".antiphon" / name, Path(folder) / name)

    await asyncio.to_thread(copy)
    await asyncio.sleep(seconds)


async def audited(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Somebody goes through the record, makes a key for a colleague and takes it back."""
    end = time.monotonic() + seconds
    for order in (
        ("audit", "verify", "--json"),
        ("keys", "create", "colleague", "--role", "viewer", "--expires-in", "1d", "--json"),
        ("keys", "list", "--json"),
        ("releases", "history", "desk", "--json"),
        ("features", "list", "--json"),
    ):
        await asyncio.to_thread(antiphon, project.root, *order, code=None)
    await asyncio.sleep(max(0.0, end - time.monotonic()))


async def engine_restarted(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The engine is replaced by the command that is for it."""
    await asyncio.to_thread(antiphon, project.root, "restart", "engine", "--json")
    await asyncio.sleep(seconds)


async def logs_cleared(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A nightly program of the machine removes log files, open ones too."""
    for file in (project.root / ".antiphon" / "logs").iterdir():
        if file.is_file():
            file.unlink(missing_ok=True)
    await asyncio.sleep(seconds)


async def compiled_beside(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Something computes on each processor at the lowest priority."""
    program = "import os\nos.nice(19)\nwhile True: pass"
    busy = [start_child([sys.executable, "-c", program], stderr=subprocess.DEVNULL) for _ in range(os.cpu_count() or 1)]
    try:
        await asyncio.sleep(seconds)
    finally:
        for one in busy:
            one.kill()
            one.wait()


OPERATORS: dict[str, Injector] = {
    "unreachable_schema": released("unreachable-schema"),
    "few_tokens": released("few-tokens"),
    "stop_text": released("stop-text"),
    "endless_prompt": released("endless-prompt"),
    "impatient_contract": released("impatient-contract"),
    # Room for one request at a time.
    "room_for_one": slipped("gateway", "max_in_flight = 48", "max_in_flight = 1"),
    "strict_guard": released("strict-guard"),
    # Bytes were taken for kilobytes.
    "body_limit_slipped": slipped("gateway", "[gateway]", "[gateway]\nmax_body_bytes = 64"),
    # A budget that was meant for a day of a trial.
    "budget_slipped": commanded(
        (
            "budgets",
            "set",
            "trial",
            "--application",
            "desk",
            "--limit",
            "0.0001",
            "--per",
            "day",
            "--reason",
            "a trial",
        ),
        ("budgets", "remove", "trial", "--reason", "the trial is over"),
    ),
    # It was meant for the other application, which has answers in store.
    "store_alone": commanded(
        ("precomputed", "begin", "triage", "--for", "1h", "--reason", "the engine is to be spared"),
        ("precomputed", "end", "triage", "--reason", "it has nothing in store"),
    ),
    "refresh_switched_off": refresh_switched_off,
    "second_key_needed": released("second-key"),
    "settings_torn": settings_torn,
    "source_misdirected": source_misdirected,
    "harmless_apply": harmless_apply,
    "table_answered_beside": table_answered_beside,
    "backup_taken": backup_taken,
    "audited": audited,
    "engine_restarted": engine_restarted,
    "logs_cleared": logs_cleared,
    "compiled_beside": compiled_beside,
}
