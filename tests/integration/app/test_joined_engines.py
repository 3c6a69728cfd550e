"""Engines that join the catalog: real processes that come, are replaced under load, and are killed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from antiphon.app import up
from antiphon.catalog.engine_instances import EngineInstances
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.child_process import start_child
from antiphon.core.errors import EngineError, InvalidInputError
from antiphon.core.settings_sections import EngineSettings
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult
from antiphon.engine.routing.routed_engine import RoutedEngine
from antiphon.gateway.http.engine_network import engine_files
from antiphon.governance.certificates.authority import CertificateSpec, init, settings_lines
from antiphon.services.engines import clients, commands
from antiphon.services.engines.joining import LEASE_SECONDS
from antiphon.services.project.store import Store

ENGINE = '[engine]\nkind = "simulated"\nmodels = ["words"]\nslots = 8\n'


@contextlib.contextmanager
def opened(folder: Path, settings: str) -> Iterator[Store]:
    (folder / "antiphon.toml").write_text(settings)
    (folder / "definitions.py").write_text("")
    store = Store.open(folder)
    try:
        yield store
    finally:
        store.close()


@dataclass
class Machines:
    """The processes of a project's engines."""

    store: Store
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def listed(self) -> dict[str, str]:
        """Processes by the names of the engines that have joined."""
        leases = ProcessLeases(self.store.database, self.store.scope.environment)
        # TENANT/NAME@HOST
        living = EngineInstances(leases).living()
        return {one.name.partition("@")[0].rpartition("/")[2]: one.process for one in living}

    def start(self, name: str, **options: str) -> None:
        command = commands.command(self.store, name, join=True, **options)
        self.store.paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.store.paths.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.store.paths.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = start_child(command, stderr=log)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.02)

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@dataclass
class Stream:
    """Requests one after another, a few at a time, and what became of them."""

    engine: RoutedEngine
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    broken_off: int = 0
    over: bool = False
    asked: Counter[int] = field(default_factory=Counter)

    async def ask(self, lane: int) -> None:
        while not self.over:
            self.asked[lane] += 1
            request = GenerationRequest(
                "r",
                "words",
                f"{lane} of {self.asked[lane]}. " + "About lakes. " * 20,
                40,
                temperature=1.0,
                ignore_end=True,
            )
            shown = False
            try:
                async for event in self.engine.generate(request):
                    shown = shown or (isinstance(event, Delta) and bool(event.text))
                    self.answered += isinstance(event, GenerationResult)
            except EngineError as error:
                if not shown:
                    self.failed.append(str(error))
                self.broken_off += shown
            except Exception as error:
                self.failed.append(repr(error))
                return

    async def more(self, number: int) -> None:
        """Return once so many more were answered."""
        goal = self.answered + number
        async with asyncio.timeout(30):
            while self.answered < goal:
                assert not self.failed
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def asking(engine: RoutedEngine, lanes: int = 4) -> AsyncIterator[Stream]:
    stream = Stream(engine)
    tasks = [asyncio.create_task(stream.ask(lane)) for lane in range(lanes)]
    try:
        yield stream
    finally:
        stream.over = True
        await asyncio.gather(*tasks)


async def test_engines_are_replaced_and_killed_under_load(tmp_path: Path) -> None:
    certified = init(tmp_path / "certificates", CertificateSpec(), datetime.now(UTC)).parent
    engine_section = settings_lines(str(certified), "engine", mutual=False)
    with opened(tmp_path, engine_section + ENGINE.replace("[engine]\n", "") + "join = true\n") as store:
        machines = Machines(store)
        try:
            machines.start("one")
            machines.start("two", listen="127.0.0.1:0")
            await machines.until(lambda: set(machines.listed) == {"one", "two"})
            engine = clients.connect(store, "test")
            assert isinstance(engine, RoutedEngine)
            async with asking(engine) as stream:
                await stream.more(20)
                await _replaced(machines, stream)
                assert (stream.failed, stream.broken_off) == ([], 0)
                await _stopped(machines, stream)
                await _killed(machines, stream)
            assert stream.failed == []
            async with asyncio.timeout(5):
                while len((described := await engine.describe()).instances) > 1:
                    await asyncio.sleep(0.02)
            assert described.instances[0].name.startswith("default/two@")
            assert described.instances[0].address.startswith("127.0.0.1:")
            await engine.close()
        finally:
            machines.end()


async def _replaced(machines: Machines, stream: Stream) -> None:
    """The one over TLS; ``tests/chaos/test_rolling.py`` replaces those of a platform's own machine."""
    name, before = "two", machines.listed["two"]
    machines.processes[name].terminate()
    await machines.until(lambda: machines.processes[name].poll() is not None)
    assert machines.processes[name].returncode == 0, (machines.store.paths.logs / f"{name}.log").read_text()
    assert name not in machines.listed, "it left before it ended"
    await stream.more(10)
    machines.start(name, listen="127.0.0.1:0")
    await machines.until(lambda: machines.listed.get(name, before) != before)
    await stream.more(20)


async def _stopped(machines: Machines, stream: Stream) -> None:
    """One that says nothing any more, as if its host had vanished: what it has goes on elsewhere before its lease ends.

    The socket is open all the while.
    """
    process = machines.processes["two"]
    async with asyncio.timeout(10):
        while len((await stream.engine.describe()).instances) < 2:
            await asyncio.sleep(0.05)
    await stream.more(10)
    process.send_signal(signal.SIGSTOP)
    try:
        before = Counter(stream.asked)
        async with asyncio.timeout(LEASE_SECONDS - 0.5):
            while any(stream.asked[lane] < before[lane] + 2 for lane in before):
                await asyncio.sleep(0.01)
    finally:
        process.send_signal(signal.SIGCONT)
    await machines.until(lambda: set(machines.listed) == {"one", "two"})


async def _killed(machines: Machines, stream: Stream) -> None:
    machines.processes["one"].kill()
    killed_at = asyncio.get_running_loop().time()
    await stream.more(20)
    stream.over = True
    await machines.until(lambda: "one" not in machines.listed)
    assert asyncio.get_running_loop().time() - killed_at < LEASE_SECONDS + 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('url = "antiphon+tls://me:planted@gpu:8790"\n', "not that of an engine"),
        ('url = "antiphon+tls://gpu:8790"\n', "needs `authority`"),
        (
            'url = "antiphon+tls://gpu:8790"\nauthority = "a"\nclient_certificate = "c"\n',
            "authorities in .* cannot be used",
        ),
        ('url = "antiphon+tls://gpu:8790"\nparameters = ["top_k"]\n', "are for servers of OpenAI's API"),
    ],
)
def test_a_url_that_cannot_be_used_is_named(tmp_path: Path, settings: str, said: str) -> None:
    with opened(tmp_path, f'[engine]\nkind = "remote"\n{settings}') as store:
        with pytest.raises(InvalidInputError, match=said) as refused:
            clients.connect(store, "test")
        assert "planted" not in str(refused.value)


def test_a_url_of_an_engine_is_a_client_of_it(tmp_path: Path) -> None:
    certified = init(tmp_path / "certificates", CertificateSpec(), datetime.now(UTC)).parent
    section = settings_lines(str(certified), "engine", mutual=False)
    with opened(tmp_path, f'{section}kind = "remote"\nurl = "antiphon+tls://gpu-1.example:8790"\n') as store:
        assert isinstance(clients.connect(store, "test"), EngineClient)


def test_several_engines_are_started_with_sockets_and_ports_of_their_own(tmp_path: Path) -> None:
    settings = ENGINE + 'join = true\nlisten = "0.0.0.0:8790"\n[processes]\nengines = 2\n'
    with opened(tmp_path, settings) as store:
        specs = {spec.name: spec for spec in up.children(store) if spec.name.startswith("engine")}
        assert set(specs) == {"engine", "engine-2"}
        assert {spec.command[-2] for spec in specs.values()} == {"0.0.0.0:8790", "0.0.0.0:8791"}
        assert len({spec.sockets for spec in specs.values()}) == 2
    with opened(tmp_path, ENGINE + "join = true\n[processes]\nengines = 0\n") as store:
        assert not [spec for spec in up.children(store) if spec.name.startswith("engine")]
    with (
        opened(tmp_path, ENGINE + "[processes]\nengines = 2\n") as store,
        pytest.raises(InvalidInputError, match="join"),
    ):
        up.children(store)


def test_an_engine_that_listens_says_which_certificates_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="needs `key`, `authority`") as lacking:
        engine_files(EngineSettings(certificate="engine.crt"), "engine", tmp_path)
    assert "antiphon tls init --engines" in str(lacking.value.next_step)
    complete = EngineSettings(certificate="engine.crt", key="engine.key", authority="authority.crt")
    assert engine_files(complete, "engine", tmp_path).require_client
