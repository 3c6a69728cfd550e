"""One process of all hosts before a server: two hosts' processes, one of which is active, takes leave and is killed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.harness.changing_server import ChangingServer

from antiphon.app import up
from antiphon.catalog.engine_instances import EngineInstances, front_lease
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.child_process import start_child
from antiphon.core.errors import OverloadedError, UnavailableError
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import EngineInstance, GenerationRequest, GenerationResult, Priority
from antiphon.engine.routing.routed_engine import RoutedEngine
from antiphon.governance.certificates.authority import CertificateSpec, init, settings_lines
from antiphon.services.engines import clients, commands
from antiphon.services.project.store import Store


class Host:
    """A host: its folder, its front, and a client as its gateways have one, which reaches fronts of hosts of other
    names over TLS."""

    def __init__(self, folder: Path, settings: str, name: str) -> None:
        folder.mkdir()
        (folder / "antiphon.toml").write_text(settings)
        (folder / "definitions.py").write_text("")
        self.store = Store.open(folder)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(socket, "gethostname", lambda: name)
            engine = clients.connect(self.store, "test")
        assert isinstance(engine, RoutedEngine)
        self.engine = engine
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = commands.upstream_command(self.store, "main", listen="127.0.0.1:0")
        for path in (self.store.paths.run, self.store.paths.logs):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.store.paths.logs / "engine.log").open("ab") as log:
            self.process = start_child(command, stderr=log)

    @property
    def socket(self) -> Path:
        return self.store.paths.engine_socket_of("engine")

    @property
    def active(self) -> EngineInstance | None:
        leases = ProcessLeases(self.store.database, self.store.scope.environment)
        return next(iter(EngineInstances(leases, front_lease("default", "main")).living()), None)

    async def ask(self, priority: Priority = "online") -> str:
        async for event in self.engine.generate(GenerationRequest("r", "words", "Say.", 4, priority=priority)):
            if isinstance(event, GenerationResult):
                return event.text
        raise AssertionError("no end")

    async def close(self) -> None:
        await self.engine.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.store.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def two_hosts(folder: Path, server: ChangingServer) -> AsyncIterator[tuple[Host, Host]]:
    certified = init(folder / "certificates", CertificateSpec(), datetime.now(UTC)).parent
    settings = (
        f'[engine]\nkind = "remote"\nurl = "{server.url}"\nmodel_check = "off"\n'
        f'[catalog]\nurl = "sqlite:///{folder}/catalog.db"\n'
        + settings_lines(str(certified), "fronts", mutual=False)
        + 'listen = "127.0.0.1:0"\n'
    )
    first = Host(folder / "first", settings, socket.gethostname())
    hosts = (first, Host(folder / "second", settings, "elsewhere"))
    try:
        yield hosts
    finally:
        for host in hosts:
            await host.close()


async def test_one_front_is_active_and_another_takes_over(tmp_path: Path) -> None:
    async with ChangingServer().serving() as server, two_hosts(tmp_path, server) as (first, second):
        first.start()
        await until(lambda: first.active)
        second.start()
        await until(second.socket.is_socket)
        active = second.active
        assert active is not None
        assert (active.socket, active.address.startswith("127.0.0.1:")) == (str(first.socket), True)
        async with contextlib.AsyncExitStack() as stack:
            standing_by = EngineClient(second.socket)
            stack.push_async_callback(standing_by.close)
            with pytest.raises(UnavailableError, match="Another process speaks with the server"):
                await standing_by.describe()

        # One count of what the server has: while nothing is known there is one batch request of both hosts together.
        server.held.clear()
        batch = [asyncio.create_task(host.ask("batch")) for host in (first, second) for _ in range(3)]
        online = [asyncio.create_task(host.ask()) for host in (first, second)]
        await until(lambda: server.now == 3)
        load = (await second.engine.describe()).load
        assert (load.running_online, load.running_batch, load.waiting_batch) == (2, 1, 5)
        for one in batch:  # They would wait for a pause of ten seconds to end.
            one.cancel()
        server.held.set()
        assert set(await asyncio.gather(*online)) == {" a"}
        assert server.most == 3

        # It takes leave: what is under way ends with it, what comes meanwhile waits for the other.
        server.held.clear()
        under_way = [asyncio.create_task(host.ask()) for host in (first, second)]
        await until(lambda: server.now == 2)
        assert first.process is not None
        first.process.terminate()
        await until(lambda: (first.active or active).process != active.process)
        later = [asyncio.create_task(host.ask()) for host in (first, second)]
        await until(lambda: server.now == 4)
        server.held.set()
        assert set(await asyncio.gather(*under_way, *later)) == {" a"}
        assert await asyncio.to_thread(first.process.wait) == 0

        # It is killed: what had shown nothing goes on with the other.
        first.start()
        server.held.clear()
        under_way = [asyncio.create_task(host.ask()) for host in (first, second)]
        await until(lambda: server.now == 2)
        await until(first.socket.is_socket)
        assert second.process is not None
        killed = second.active
        second.process.kill()
        await until(lambda: killed and first.active and first.active.process != killed.process)
        await until(lambda: server.now == 2)
        server.held.set()
        assert set(await asyncio.gather(*under_way)) == {" a"}


async def test_an_error_of_the_server_is_told_at_once(tmp_path: Path) -> None:
    server = ChangingServer()
    async with server.serving(), two_hosts(tmp_path, server) as (first, _):
        first.start()
        await until(lambda: first.active)
        assert await first.ask() == " a"
        server.status = 429
        with pytest.raises(OverloadedError):
            await first.ask()


def test_each_front_has_a_port_of_its_own(tmp_path: Path) -> None:
    settings = (
        '[engine]\nkind = "remote"\nurl = "http://127.0.0.1:9/v1"\n[fronts]\nlisten = "0.0.0.0:8790"\n'
        '[engines.standby]\nurl = "http://127.0.0.1:9/v1"\n'
    )
    (tmp_path / "antiphon.toml").write_text(settings)
    (tmp_path / "definitions.py").write_text("")
    store = Store.open(tmp_path)
    try:
        commands_of = [one.command for one in up.children(store) if "--listen" in one.command]
        assert [one[one.index("--listen") + 1] for one in commands_of] == ["0.0.0.0:8790", "0.0.0.0:8791"]
    finally:
        store.close()
