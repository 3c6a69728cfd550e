"""Moves of a project that runs on several hosts, each under a fault, and what must hold of each.

``kill`` has the command wait for a lock once it has decided: the mark that it removes after that is locked meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import psycopg
from tests.chaos.harness.chaos_load import Load
from tests.chaos.harness.network import Network
from tests.chaos.harness.running import until
from tests.chaos.harness.several_hosts import Host, well
from tests.chaos.harness.shared_servers import SharedServers

from antiphon.core.child_process import start_child
from antiphon.core.settings import FILE_NAME
from antiphon.services.moving.project import ProjectMove

Fault = Literal["none", "kill", "stop", "cut"]
Say = Callable[[str], object]

FREEZE = "30s"
_MOVE_SECONDS, _WELL_SECONDS = 300.0, 120.0
_POLL = 0.02


class Moved(msgspec.Struct, frozen=True):
    """One move. ``frozen_seconds`` are the command's own, 0 of one that was killed; ``followed_seconds`` from the
    decision, or the end of the fault, until every host was well with the new stores alone. ``attempts`` of the command:
    one that loses a host gives up."""

    fault: Fault
    to: int
    seconds: float
    frozen_seconds: float
    longest_request: float
    followed_seconds: float
    attempts: int
    processes: int
    failed: dict[str, int]


class HostMoves:
    """Moves of the project of hosts that are up, to and fro between two sets of stores.

    Args:
        processes: by the name of the host its supervisor, then the engine that it does not keep.
    """

    def __init__(
        self, hosts: Sequence[Host], processes: Mapping[str, Sequence[subprocess.Popen[bytes]]], servers: SharedServers,
        networks: Network, load: Load, say: Say,
    ) -> None:  # fmt: skip
        self._hosts, self._processes, self._servers = hosts, processes, servers
        self._networks, self._load, self._say = networks, load, say
        self.place = 0
        """Number of the stores where the project is."""
        self.done: list[Moved] = []
        self.failed_while_away: Counter[str] = Counter()
        self.wrong: list[str] = []
        """What was found beside the stores that count."""

    async def move(self, fault: Fault) -> None:
        """Move to the other stores under a fault, and wait until every host is well there.

        Raises:
            RuntimeError: the command failed where it must not. TimeoutError: a host did not follow.
        """
        self._load.longest, began, before = 0.0, time.monotonic(), Counter(self._load.failures())
        to, left, decided = 1 - self.place, self.place, asyncio.Event()
        deciding = asyncio.create_task(self._state_at_decision(decided))
        attempts, moved = 1, ProjectMove()
        if fault == "kill":
            await self._killed(decided)
        elif fault == "none":
            moved = await self._commanded()
        else:
            attempts, moved = await (self._stopped() if fault == "stop" else self._cut())
        state, self.place, back = await deciding, to, time.monotonic()
        for host in self._hosts:
            await until(partial(self._followed, host, left), bool, _WELL_SECONDS)
        await answers(self._load)
        followed = time.monotonic() - back
        if (now := await asyncio.to_thread(_state, self._servers.place_of(left))) != state:
            self.wrong += [f"{name} was written after the move left it" for name in now if now[name] != state.get(name)]
        failed = Counter(self._load.failures()) - before
        if fault in ("stop", "cut"):
            self.failed_while_away += failed
        self.done.append(
            Moved(
                fault=fault,
                to=to,
                seconds=round(time.monotonic() - began, 2),
                frozen_seconds=round(moved.frozen_seconds, 2),
                longest_request=round(self._load.longest, 2),
                followed_seconds=round(followed, 2),
                attempts=attempts,
                processes=len(moved.processes),
                failed=dict(failed),
            )
        )
        self._tell(f"{msgspec.to_builtins(self.done[-1])}")

    async def _commanded(self) -> ProjectMove:
        """The command's result; every process must be back."""
        done = await asyncio.to_thread(subprocess.run, **self._command(), capture_output=True, timeout=_MOVE_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"antiphon migrate ended with {done.returncode}: {done.stderr.decode()[-2_000:]}")
        moved = msgspec.json.decode(done.stdout, type=ProjectMove)
        if moved.missing:
            raise RuntimeError(f"Not back: {moved.missing}")
        return moved

    async def _killed(self, decided: asyncio.Event) -> None:
        """Kill the command after its decision: it waits for a lock by then, and has the write lock of the new stores,
        for which everybody else waits."""
        running = self._started()
        connection: psycopg.Connection[Any] | None = None
        try:
            connection = await asyncio.to_thread(_locked, self._servers.place_of(1 - self.place), running)
            await asyncio.wait_for(decided.wait(), _MOVE_SECONDS)
            if running.poll() is not None:
                raise RuntimeError(f"The command ended with {running.returncode} before it was killed.")
            running.kill()
        finally:
            if running.poll() is None:
                running.kill()
            await asyncio.to_thread(running.wait)
            if connection is not None:
                connection.close()

    async def _stopped(self) -> tuple[int, ProjectMove]:
        async with self._away():
            host = self._hosts[-1]
            pids = [pid for process in self._processes[host.name] for pid in _tree(process.pid)]
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            self._tell(f"stopped {len(pids)} processes of {host.name}")
            try:
                return await self._attempted()
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)

    async def _cut(self) -> tuple[int, ProjectMove]:
        async with self._away():
            number, running = len(self._hosts) - 1, self._started()
            try:
                await until(partial(asyncio.to_thread, self._leaving), bool, _MOVE_SECONDS)
                await asyncio.to_thread(self._networks.cut, number)
                self._tell(f"cut {self._hosts[number].name} off")
                if await asyncio.to_thread(running.wait, _MOVE_SECONDS) == 0:
                    return 1, ProjectMove()  # The host had left just before.
                attempts, moved = await self._attempted()
                return attempts + 1, moved
            finally:
                if running.poll() is None:
                    running.kill()
                    running.wait()
                await asyncio.to_thread(self._networks.mend, number)

    async def _attempted(self) -> tuple[int, ProjectMove]:
        """Give the command until it succeeds."""
        for attempt in range(1, 4):
            try:
                return attempt, await self._commanded()
            except RuntimeError as error:
                self._tell(str(error))
        raise RuntimeError("The project could not be moved while a host was away.")

    @asynccontextmanager
    async def _away(self) -> AsyncIterator[None]:
        """Clients ask no gateway of the last host, as behind a load balancer; nor do those that have asked it wait."""
        urls, self._load.urls = self._load.urls, self._load.urls[:-1]
        await answers(self._load)
        try:
            yield
        finally:
            self._load.urls = urls

    async def _state_at_decision(self, decided: asyncio.Event) -> dict[str, str]:
        """What the catalog that is left is at the decision, table by table; the event is set at the decision."""
        place = self._servers.place_of(self.place)
        await until(partial(asyncio.to_thread, _marked, place, "moved to"), bool, 2 * _MOVE_SECONDS)
        decided.set()
        return await asyncio.to_thread(_state, place)

    def _leaving(self) -> bool:
        """Whether processes of the order are to leave."""
        with psycopg.connect(self._servers.place_of(self.place)) as connection:
            row = connection.execute("SELECT detail FROM leases WHERE name = 'move under way'").fetchone()
        return row is not None and '"gateway"' in row[0]

    async def _followed(self, host: Host, left: int) -> bool:
        """Whether a host is well with the new stores, and has none of the old ones open."""
        if self._servers.stores[self.place]["catalog"] not in (host.project.root / FILE_NAME).read_text():
            return False
        supervisor, engine = self._processes[host.name]
        if engine.poll() is not None:
            raise RuntimeError(f"The engine of {host.name} ended with {engine.returncode}.")
        if not await well(host, supervisor) or not await asyncio.to_thread(self._joined, host):
            return False
        open_by = await asyncio.to_thread(
            _connections, self._servers.place, self._networks.inner_address(self._hosts.index(host))
        )
        names = [self._servers.database_of(number) for number in (self.place, left)]
        return open_by.get(names[0], 0) > 0 and names[1] not in open_by

    def _joined(self, host: Host) -> bool:
        """Whether the engine of a host is listed in the catalog that counts."""
        with psycopg.connect(self._servers.place_of(self.place)) as connection:
            listed = "SELECT 1 FROM leases WHERE name = %s AND until > extract(epoch FROM now()) * 1e6"
            return connection.execute(listed, (f"engine/default/engine@{host.name}",)).fetchone() is not None

    def _command(self) -> dict[str, Any]:
        host = self._hosts[0]
        urls = self._servers.stores[1 - self.place]
        named = [word for store, url in urls.items() for word in (f"--{store}", url)]
        command = [*host.under, sys.executable, "-m", "antiphon.cli.main", "migrate", "--live", "--json"]
        command += ["--freeze-at-most", FREEZE, "--project", str(host.project.root), *named]
        return {"args": command, "env": {**os.environ, **host.environment}}

    def _started(self) -> subprocess.Popen[bytes]:
        command = self._command()
        return start_child(command["args"], env=command["env"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _tell(self, words: str) -> None:
        self._say(words)


async def answers(load: Load) -> None:
    """Wait until every client was answered anew."""
    before = len(load.acknowledged)

    async def more() -> int:
        return len(load.acknowledged) - before

    await until(more, lambda found: found > 6, _WELL_SECONDS)


def _marked(place: str, name: str) -> bool:
    """Whether a catalog has a mark."""
    with psycopg.connect(place) as connection:
        there = connection.execute("SELECT to_regclass('leases')").fetchone()
        if there is None or there[0] is None:
            return False
        return connection.execute("SELECT 1 FROM leases WHERE name = %s", (name,)).fetchone() is not None


def _locked(place: str, running: subprocess.Popen[bytes]) -> psycopg.Connection[Any]:
    """A transaction that has the mark of a target which does not count yet: what counts by its removal waits."""
    while not _marked(place, "moving from"):
        if running.poll() is not None:
            raise RuntimeError(f"The command ended with {running.returncode} and moved nothing.")
        time.sleep(_POLL)
    connection = psycopg.connect(place)
    connection.execute("SELECT 1 FROM leases WHERE name = 'moving from' FOR UPDATE")
    return connection


def _state(place: str) -> dict[str, str]:
    """Table to the hash of its rows."""
    with psycopg.connect(place) as connection:
        names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        found = {}
        for (name,) in connection.execute(names).fetchall():
            rows = f"""SELECT md5(coalesce(string_agg(md5(t::text), '' ORDER BY md5(t::text)), '')) FROM "{name}" t"""
            ((found[name],),) = connection.execute(rows).fetchall()  # type: ignore[call-overload]
        return found


def _connections(place: str, address: str) -> dict[str, int]:
    """Database to how many connections a host has to it."""
    with psycopg.connect(place) as connection:
        rows = connection.execute(
            "SELECT datname, count(*) FROM pg_stat_activity WHERE client_addr = %s::inet GROUP BY 1", (address,)
        )
        return dict(rows.fetchall())


def _tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += _tree(int(child))
    return found
