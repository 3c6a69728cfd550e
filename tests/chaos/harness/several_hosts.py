"""One project on several hosts: on each a supervisor with its gateway, engine and workers, all on one catalog.

The hosts are this machine's. Each has a folder of its own for what is a host's (run, logs), and a host name of its own
where the kernel lets us; keys, and lake, online store and files where no servers have them, are those of the first one,
as on a file system that hosts share. In networks of their own they are ``network.py``'s, and their engines join.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import httpx2
import msgspec
from tests.chaos.harness.chaos_project import ChaosProject
from tests.chaos.harness.network import Network
from tests.chaos.harness.running import ready, supervised, until
from tests.harness.ports import free_port

from antiphon.core.paths import ProjectPaths

Kind = Literal["gateway", "engine", "worker"]
SHARED = ("keys", "lake", "online", "files", "witness")
WELL_SECONDS = 90.0
_NAMED = ("unshare", "--uts", "/bin/sh", "-c", 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"')


class Process(msgspec.Struct, frozen=True):
    """A process that a supervisor keeps, and the pid that it has now."""

    host: str
    name: str
    pid: int

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


class HostPlan(msgspec.Struct, frozen=True):
    """The processes of a host beside its gateway, and how many seconds its clock is ahead.

    ``fronts`` stand before servers at URLs.
    """

    workers: int
    engines: int = 1
    fronts: int = 0
    clock: float = 0.0


class Host(msgspec.Struct, frozen=True):
    """One host: the project as it sees it, what its supervisor is started under, and what it has in its environment."""

    name: str
    project: ChaosProject
    plan: HostPlan
    under: tuple[str, ...]
    environment: Mapping[str, str]

    def processes(self) -> tuple[Process, ...]:
        """Those that run now, by their records; one that is being started again is not among them."""
        files = sorted((self.project.directory / "run").glob("*.pid"))
        found = [Process(self.name, file.stem, pid) for file in files if (pid := _pid(file)) is not None]
        return tuple(one for one in found if Path(f"/proc/{one.pid}/stat").exists())

    def works(self, process: Process) -> bool:
        """Whether a process of this host has come up, by what the supervisor goes by."""
        run = self.project.directory / "run"
        if process.kind == "worker":
            file = run / f"{process.name}.ready"
            return file.exists() and file.read_text() == str(process.pid)
        if process.kind == "engine":
            paths = ProjectPaths(self.project.root, self.project.directory)
            return _accepts(socket.AF_UNIX, str(paths.engine_socket_of(process.name)))
        return _accepts(socket.AF_INET, (self.project.address, self.project.port))


def hosts_of(
    project: ChaosProject, plans: Sequence[HostPlan], environment: Mapping[str, str], networks: Network | None,
    *, apart: bool = False,
) -> tuple[Host, ...]:  # fmt: skip
    """Hosts with these plans; the first one is where the project is.

    Args:
        apart: each has the project's files in a folder of its own, as hosts have that share no file system.
    """
    named = subprocess.run([*_NAMED, "trial", "true"], capture_output=True).returncode == 0
    made = []
    for number, plan in enumerate(plans):
        name = f"host-{'abc'[number]}"
        root = _copied(project.root, name) if apart and number else project.root
        folder = project.folder if root is not project.root or number == 0 else f"{project.folder}-{name}"
        port = project.port if number == 0 else free_port()
        address = project.address if networks is None else networks.address(number)
        own = ChaosProject(root, port, project.model, address, folder)
        settings = {
            "ANTIPHON_PROJECT__DIRECTORY": folder, "ANTIPHON_GATEWAY__PORT": str(port),
            "ANTIPHON_GATEWAY__HOST": address, "ANTIPHON_PROCESSES__WORKERS": str(plan.workers),
            "ANTIPHON_PROCESSES__ENGINES": str(plan.engines),
        }  # fmt: skip
        if networks is not None and plan.engines:
            settings["ANTIPHON_ENGINE__LISTEN"] = f"{networks.inner_address(number)}:{free_port()}"
        if networks is not None and plan.fronts:
            settings["ANTIPHON_FRONTS__LISTEN"] = f"{networks.inner_address(number)}:{free_port()}"
        if plan.clock:
            settings["CHAOS_CLOCK"] = str(plan.clock)
        under = (*(() if networks is None else networks.under(number)), *((*_NAMED, name) if named else ()))
        made.append(Host(name, own, plan, under, {**environment, **settings}))
    return tuple(made)


def joined(project: ChaosProject, plans: Sequence[HostPlan], networks: Network) -> dict[str, str]:
    """Make certificates for engines and fronts of hosts; the environment in which engines join, and clients believe
    them and fronts."""
    addresses = [networks.inner_address(number) for number, plan in enumerate(plans) if plan.engines or plan.fronts]
    command = [sys.executable, "-m", "antiphon.cli.main", "tls", "init", "--engines", "--project", str(project.root)]
    command += [word for address in addresses for word in ("--ip", address)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    folder = project.directory / "tls" / "engines" / "current"
    files = {
        "CERTIFICATE": "server.crt", "KEY": "server.key", "AUTHORITY": "authority.crt",
        "CLIENT_CERTIFICATE": "client.crt", "CLIENT_KEY": "client.key",
    }  # fmt: skip
    sections = ("ENGINE", "FRONTS") if any(plan.fronts for plan in plans) else ("ENGINE",)
    named = {f"ANTIPHON_{one}__{name}": f"{folder}/{file}" for one in sections for name, file in files.items()}
    return {"ANTIPHON_ENGINE__JOIN": "true", **named}


@asynccontextmanager
async def running(hosts: Sequence[Host]) -> AsyncIterator[dict[str, subprocess.Popen[bytes]]]:
    """The supervisors of the hosts, by name, the first of them up before the others; drained at the end.

    Raises:
        RuntimeError: one ended before it was ready. TimeoutError: one was not ready in time.
    """
    async with AsyncExitStack() as stack:
        found: dict[str, subprocess.Popen[bytes]] = {}
        for host in hosts:
            if host is not hosts[0]:
                share(hosts[0].project.directory, host.project.directory)
            found[host.name] = await stack.enter_async_context(
                supervised(
                    host.project.root, host.project.url, under=host.under, environment=host.environment,
                    log=f"up-{host.name}.log",
                )
            )  # fmt: skip
        for host in hosts:
            await until(partial(well, host, found[host.name]), bool, WELL_SECONDS)
        yield found


async def well(host: Host, supervisor: subprocess.Popen[bytes]) -> bool:
    """Whether the host's gateway can answer and its workers work.

    Raises:
        RuntimeError: the supervisor has ended.
    """
    up = [process for process in host.processes() if host.works(process)]
    if len(up) < host.plan.workers + host.plan.engines + host.plan.fronts + 1:
        return False
    try:
        return await ready(host.project.url, supervisor, host.project.root / f"up-{host.name}.log")
    except httpx2.HTTPError:
        return False


async def drained(hosts: Sequence[Host], supervisors: Mapping[str, subprocess.Popen[bytes]]) -> tuple[str, ...]:
    """Ask every supervisor to end, all at once; returns what still runs afterwards, or ended with an error."""
    before = [process for host in hosts for process in host.processes()]
    for supervisor in supervisors.values():
        supervisor.terminate()
    codes = await asyncio.gather(*(asyncio.to_thread(one.wait, 90.0) for one in supervisors.values()))
    left = [f"{process.host}/{process.name}" for process in before if _runs(process.pid)]
    return (*left, *(f"exit code {code}: it" for code in codes if code))


def share(first: Path, other: Path) -> None:
    """Let another host's folder have what the hosts share."""
    other.mkdir(mode=0o700, exist_ok=True)
    for name in SHARED:
        (first / name).mkdir(mode=0o700, exist_ok=True)
        if not (other / name).exists():
            (other / name).symlink_to(first / name)


def _copied(root: Path, name: str) -> Path:
    """A folder with the files of a project that its hosts have alike."""
    own = root.with_name(f"{root.name}-{name}")
    own.mkdir()
    for file in ("definitions.py", "antiphon.toml"):
        shutil.copy(root / file, own)
    return own


def _pid(record: Path) -> int | None:
    try:
        return int(json.loads(record.read_bytes())["pid"])
    except FileNotFoundError:
        return None


def _accepts(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as trial:
        trial.settimeout(1.0)
        return trial.connect_ex(address) == 0


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
