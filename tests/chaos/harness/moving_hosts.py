"""Two hosts whose project is moved to other stores and back while they run: what one host alone cannot show.

Each host has a network and files of its own, a supervisor with a gateway, a worker and a front before one server of
both hosts, and an engine that has joined and that no supervisor keeps. Clients ask both gateways and push events, a
table job runs. ``antiphon migrate --live`` is given on the first host. The faults:

- ``none``;
- ``kill``: SIGKILL of the command once it has decided;
- ``stop``: every process of the second host is stopped (SIGSTOP), and goes on when the project has been moved;
- ``cut``: the second host is cut off from servers and the other host while its processes are asked to leave, until the
  project has been moved.

Beside the checks of ``chaos_checks`` it is looked at from outside whether every host has the new stores open and none
the old ones, whether the catalog that was left is byte for byte what it was at the decision, and whether its audit log
names each move.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from tests.chaos.harness import chaos_evidence
from tests.chaos.harness.chaos_checks import check_all
from tests.chaos.harness.chaos_evidence import Evidence
from tests.chaos.harness.chaos_load import Load
from tests.chaos.harness.chaos_project import write_project
from tests.chaos.harness.host_moves import Fault, HostMoves, Moved, Say, answers
from tests.chaos.harness.many_processes import complaints
from tests.chaos.harness.network import SERVERS, Network, network
from tests.chaos.harness.running import started
from tests.chaos.harness.several_hosts import Host, HostPlan, drained, hosts_of, joined, running, share
from tests.chaos.harness.shared_servers import shared_servers
from tests.harness.ports import free_port
from tests.servers import ServerProcess

from antiphon.services.moving.project import MOVE

PLANS = (HostPlan(workers=1, engines=0, fronts=1), HostPlan(workers=1, engines=0, fronts=1))
OUTSIDE = "outside"
"""The application that is answered by the server behind the fronts."""

_MORE_DEFINITIONS = f'''

outside = Application(
    "{OUTSIDE}", ungated="a test asks at once",
    purpose="chaos",
    owner="chaos",
    entities=[],
    features=[],
    model="paced-200",
    fallback=["upstream"],
    prompt=Prompt(template="{{{{ question }}}}"),
    decoding=Decoding(max_tokens=4),
    reuse=Reuse("never", identical_prompts=False),
)
'''
_MORE_SETTINGS = """
[engines.upstream]
url = "{url}"
"""
_ENVIRONMENT = {
    "ANTIPHON_ENGINE__MODEL_CHECK": "off",
    "ANTIPHON_WORKER__LEASE": "15s",
    "ANTIPHON_ENGINE__MODELS": "simulated,paced-200",
}
_ENGINE_ENVIRONMENT = {"ANTIPHON_ENGINE__MODELS": "simulated"}
"""The other model is the server's alone, so that questions to it are passed on."""

_CLIENT_SECONDS = 60.0
_PAUSE = 0.1


class Report(msgspec.Struct, frozen=True):
    """A whole run; ``outside`` are answers of the server behind the fronts."""

    moves: tuple[Moved, ...]
    answered: int
    outside: int
    events: int
    jobs: int
    job_rows: int
    failed: dict[str, int]
    failed_while_away: dict[str, int]
    violations: dict[str, list[str]]
    replayed: int
    identical: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether no request failed but of a host that was away, nothing was violated, and sampled predictions were
        made again byte for byte."""
        return not self.failed and not any(self.violations.values()) and 0 < self.replayed == self.identical


class UpstreamProcess(ServerProcess):
    """A server of OpenAI's API that answers in fixed times."""

    def __init__(self, **where: Any) -> None:
        super().__init__("upstream", **where)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}/v1"

    def command(self) -> list[str]:
        tree = Path(__file__).parents[3]
        options = ["--address", self.address, "--port", str(self.port)]
        return ["env", f"PYTHONPATH={tree}", sys.executable, "-m", "benchmarks.gateway.upstream", *options]


class OutsideClient:
    """A client of the application behind the fronts."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.answered = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Ask again and again until ``stop``; what fails is the load's."""
        body = {"model": OUTSIDE, "messages": [{"role": "user", "content": "Where?"}]}
        while not stop.is_set():
            self.answered += await self._load.post("a question to the server", "/v1/chat/completions", body) is not None
            await asyncio.sleep(_PAUSE)


@asynccontextmanager
async def _own_engines(hosts: Sequence[Host], networks: Network) -> AsyncIterator[dict[str, subprocess.Popen[bytes]]]:
    """An engine on each host that has joined and that no supervisor keeps, by the host's name."""
    async with AsyncExitStack() as stack:
        found = {}
        for number, host in enumerate(hosts):
            if number:
                share(hosts[0].project.directory, host.project.directory)
            listen = f"{networks.inner_address(number)}:{free_port()}"
            command = [sys.executable, "-m", "antiphon.cli.main", "engine", "--join", "--listen", listen]
            found[host.name] = await stack.enter_async_context(
                started(
                    [*host.under, *command, "--project", str(host.project.root)],
                    host.project.root / f"engine-{host.name}.log", 30.0, {**host.environment, **_ENGINE_ENVIRONMENT},
                )
            )  # fmt: skip
        yield found


async def run(
    root: Path, faults: Sequence[Fault], *, seed: int = 1, catalog_alone: bool = False, replays: int = 10,
    say: Say = lambda words: None,
) -> Report:  # fmt: skip
    """Run the harness in an empty folder, one move for each fault.

    Args:
        catalog_alone: the catalog alone is on a server and is moved; else all stores are.

    Raises:
        RuntimeError: networks cannot be made here, or a command failed where it must not. TimeoutError: what must come
            about did not.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        networks = stack.enter_context(network(len(PLANS)))
        servers = stack.enter_context(shared_servers(networks, catalog_alone=catalog_alone))
        servers.make_room()
        upstream = stack.enter_context(UpstreamProcess(address=SERVERS, under=networks.under(-1)))
        more = servers.settings + _MORE_SETTINGS.format(url=upstream.url)
        project = write_project(root / "project", "simulated", more)
        with (project.root / "definitions.py").open("a") as definitions:
            definitions.write(_MORE_DEFINITIONS)
        environment = {**servers.environment, **_ENVIRONMENT, **joined(project, PLANS, networks)}
        hosts = hosts_of(project, PLANS, environment, networks, apart=True)
        urls = [host.project.url for host in hosts]
        async with (
            _own_engines(hosts, networks) as engines,
            running(hosts) as supervisors,
            Load(hosts[0].project, seed, urls, _CLIENT_SECONDS, _PAUSE, tables_at_home=True) as load,
        ):
            await load.start()
            load.refused.clear()  # What is asked before the first publication is rightly refused.
            load.broken_off.clear()
            processes = {host.name: (supervisors[host.name], engines[host.name]) for host in hosts}
            moves = HostMoves(hosts, processes, servers, networks, load, say)
            outside, stop = OutsideClient(load), asyncio.Event()
            clients = asyncio.gather(load.run(), outside.run(stop))
            try:
                await answers(load)
                for fault in faults:
                    await moves.move(fault)
            finally:
                stop.set()
                load.stop()
                await asyncio.wait_for(clients, 120)
            settled = await load.settle()
            answered = [one.prediction for one in load.acknowledged]
            again = [
                await load.replayed(one) for one in random.Random(seed).sample(answered, min(replays, len(answered)))
            ]
            left = await drained(hosts, supervisors)
        found = Evidence(
            acknowledged=tuple(load.acknowledged),
            refused=tuple(load.refused),
            pushed=frozenset(load.pushed),
            jobs=tuple(load.jobs),
            settled=settled,
            left_running=left,
            outputs=chaos_evidence.read_outputs(tuple(load.jobs)),
            complaints=complaints(hosts[-1], answered[-1:]),
            **servers.found(hosts[-1].project.directory, moves.place),
        )
        recorded = _recorded(servers.place_of(moves.place))
    if recorded != len(faults):
        moves.wrong.append(f"the audit log names {recorded} moves of {len(faults)}")
    return Report(
        moves=tuple(moves.done),
        answered=len(answered),
        outside=outside.answered,
        events=len(load.pushed),
        jobs=len(load.jobs),
        job_rows=sum(map(len, found.job_rows.values())),
        failed=dict(Counter(load.failures()) - moves.failed_while_away),
        failed_while_away=dict(moves.failed_while_away),
        violations={**check_all(found), "stores that count alone": moves.wrong},
        replayed=len(again),
        identical=sum(again),
        seconds=round(time.monotonic() - began, 1),
    )


def table(report: Report) -> list[str]:
    """The report as lines for people."""
    lines = [f"{'fault':<6} {'to':>3} {'all':>8} {'freeze':>8} {'followed':>9} {'slowest request':>16} attempts"]
    lines += [
        f"{one.fault:<6} {one.to:>3} {one.seconds:>7.1f}s {one.frozen_seconds:>7.2f}s {one.followed_seconds:>8.2f}s "
        f"{one.longest_request:>15.2f}s {one.attempts:>8}"
        for one in report.moves
    ]
    failed = {"failed": report.failed, "failed while a host was away": report.failed_while_away}
    return [
        *lines,
        f"{report.answered} questions answered and {report.outside} by the server behind the fronts, {report.events} "
        f"events taken, {report.job_rows} rows of {report.jobs} batch jobs; {report.identical} of {report.replayed} "
        "replayed byte for byte",
        *(f"  {what}: {name}, {times} times" for what, found in failed.items() for name, times in found.items()),
    ]


def _recorded(place: str) -> int:
    with psycopg.connect(place) as connection:
        row = connection.execute("SELECT count(*) FROM audit_entries WHERE action = %s", (MOVE,)).fetchone()
        return 0 if row is None else int(row[0])
