"""Many processes on one PostgreSQL under kills and partitions.

``python -m tests.chaos.harness.many_processes --kills 300`` has two hosts with two gateways, two engines and three
workers, and kills one process after another with SIGKILL, each while another one of its kind is up, under load through
all gateways. ``--partitions 100`` has three hosts, each with a network and a clock of its own, on PostgreSQL, Redis, an
object store and NATS; two have engines, which all three ask over TLS. It cuts a host off from the others and the
servers, or from everything, or delays what it hears and says, or starts a server again. What must hold is looked at
from outside (``chaos_checks``), and within PostgreSQL by triggers (``chaos_triggers``). ``--broken`` takes one defence
away, which must be found. Moments are drawn from the seed; what happens at them is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import msgspec
from tests.chaos.harness import chaos_evidence
from tests.chaos.harness.chaos_checks import check_all
from tests.chaos.harness.chaos_evidence import Evidence
from tests.chaos.harness.chaos_load import Load
from tests.chaos.harness.chaos_project import write_project
from tests.chaos.harness.chaos_triggers import LONGEST_TAKE_OVER, TakeOver, make_triggers
from tests.chaos.harness.kill_harness import load_and_checks
from tests.chaos.harness.network import Network, network
from tests.chaos.harness.several_hosts import Host, HostPlan, Process, drained, hosts_of, joined, running, well
from tests.chaos.harness.shared_servers import SharedServers, shared_servers

KILLED = (HostPlan(workers=2), HostPlan(workers=1))
CUT_OFF = (HostPlan(workers=1), HostPlan(workers=1, clock=5.0), HostPlan(workers=1, engines=0, clock=-5.0))
"""The hosts of both forms."""

GOAL_TAKE_OVER = 5.0
PAUSE_SECONDS = 6.0
"""Longer than the lease of a run in this project, which is 3 s."""

PLANTED = Path(__file__).parent / "planted"
_BETWEEN = 2.0
"""Seconds between two kills, at most."""
_WELL_SECONDS = 120.0
_CLIENT_SECONDS = 5.0
_PAUSE = 0.1
"""Seconds between two questions of a client: workers, who have what online requests leave, must have something."""


class Report(msgspec.Struct, frozen=True):
    """The outcome of a run. ``violations`` has every check's name; all empty when the invariants held."""

    seed: int
    broken: str | None
    kills: dict[str, int]
    faults: dict[str, int]
    violations: dict[str, list[str]]
    take_over: dict[str, list[float]]
    take_over_partitioned: dict[str, list[float]]
    acknowledged: int
    unanswered: int
    refused: int
    receipts: int
    events: int
    publications: int
    jobs: int
    job_rows: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing was violated, and what killed processes and hosts that were cut off had went on in time."""
        cut_off = self.take_over_partitioned  # Together: a run of the harness sees a dozen of each.
        taken = [self.take_over["run"], self.take_over["duty"], cut_off["run"] + cut_off["duty"]]
        in_time = all(rank(seconds, 0.95) < GOAL_TAKE_OVER for seconds in taken)
        return in_time and not any(self.violations.values())

    def tables(self) -> dict[str, list[float]]:
        """Seconds of each take-over by what is said of them in the table and in the JSON line."""
        found = {}
        for words, kinds in (("take_over", self.take_over), ("take_over_partitioned", self.take_over_partitioned)):
            found[words] = kinds["run"] + kinds["duty"]
            found |= {f"{words}_{kind}": each for kind, each in kinds.items()}
        return found


class Chaos:
    """The faults of one run, on hosts that are up.

    Args:
        networks: of the hosts; without them nothing is cut.
    """

    def __init__(
        self, hosts: Sequence[Host], supervisors: Mapping[str, subprocess.Popen[bytes]], servers: SharedServers,
        networks: Network | None, seed: int, say: TextIO | None,
    ) -> None:  # fmt: skip
        self._hosts, self._supervisors, self._servers = hosts, supervisors, servers
        self._networks = networks
        self._chance = random.Random(seed)
        self._say = say
        self._watching: list[tuple[bool, asyncio.Task[dict[str, list[float]]]]] = []
        self.kills: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    async def kill(self, times: int) -> None:
        """Kill so many processes, kinds by turns, each while another one of its kind is up; a worker once what the one
        before had goes on, so that the times of taking over are of one kill each."""
        kinds = ["gateway", "engine", "worker"] * (times // 3 + 1)
        for number, kind in enumerate(kinds[:times], start=1):
            await asyncio.sleep(self._chance.random() * _BETWEEN)
            if kind == "worker":
                await asyncio.gather(*(watch for _, watch in self._watching))
            victim = await self._victim(kind)
            self._watch([victim.pid])
            os.kill(victim.pid, signal.SIGKILL)
            self.kills[f"{victim.host}/{victim.name}"] += 1
            self._tell(f"{number:3}/{times}  killed {victim.host}/{victim.name}")
        await self.all_well()

    async def pause(self, times: int) -> None:
        """Stop a worker for longer than its leases, and let it go on, which must commit nothing of what it lost."""
        for _ in range(times):
            victim = await self._victim("worker")
            os.kill(victim.pid, signal.SIGSTOP)
            self._watch([victim.pid], PAUSE_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)
            os.kill(victim.pid, signal.SIGCONT)
            self.faults["pause"] += 1
            self._tell(f"paused {victim.host}/{victim.name}")
            await asyncio.sleep(1.0)

    async def partition(self, times: int) -> None:
        """Cut a host off, let it vanish, delay it, or start a server again, so many times by turns."""
        kinds = ("cut", "vanish", "delay", "restart")
        for number in range(times):
            kind, host = kinds[number % len(kinds)], self._chance.randrange(len(self._hosts))
            await asyncio.sleep(self._chance.random() * _BETWEEN)
            struck = await self._fault(kind, host)
            self.faults[kind] += 1
            began = time.monotonic()
            await self.all_well()
            took = time.monotonic() - began
            self._tell(f"{number + 1:3}/{times}  {kind} of {struck}, well after {took:.1f} s")

    async def all_well(self) -> None:
        """Wait until every host is well."""
        async with asyncio.timeout(_WELL_SECONDS):
            for host in self._hosts:
                while not await well(host, self._supervisors[host.name]):
                    await asyncio.sleep(0.1)

    async def taken_over(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Seconds until what killed processes had went on elsewhere, by kind, and what paused or cut off ones had."""
        killed: dict[str, list[float]] = {"duty": [], "run": [], "claim": []}
        others: dict[str, list[float]] = {"duty": [], "run": [], "claim": []}
        for was_killed, watch in self._watching:
            took = await watch
            for kind, seconds in took.items():
                (killed if was_killed else others)[kind] += seconds
        return killed, others

    async def _fault(self, kind: str, host: int) -> str:
        """Strike; the name of what was struck."""
        seconds = self._chance.uniform(1.0, 8.0)
        if kind == "restart":
            return await asyncio.to_thread(self._servers.restart, self.faults[kind])
        assert self._networks is not None
        if kind == "delay":
            await asyncio.to_thread(self._networks.delay, host, self._chance.randint(20, 200))
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self._networks.delay, host, 0)
            return self._hosts[host].name
        if seconds > GOAL_TAKE_OVER:  # One that comes back sooner may go on with what it had.
            self._watch([one.pid for one in self._hosts[host].processes() if one.kind == "worker"], seconds)
        if kind == "vanish":
            await asyncio.to_thread(self._networks.cut_clients, host)
        await asyncio.to_thread(self._networks.cut, host)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._networks.mend, host)
        return self._hosts[host].name

    async def _victim(self, kind: str) -> Process:
        """A process of a kind that has another one beside it, once there is one."""
        async with asyncio.timeout(_WELL_SECONDS):
            while True:
                up = [one for host in self._hosts for one in host.processes() if one.kind == kind and host.works(one)]
                if len(up) > 1:
                    return self._chance.choice(up)
                await asyncio.sleep(0.05)

    def _watch(self, pids: Sequence[int], away: float | None = None) -> None:
        """Watch what becomes of what killed processes had, or those that are away for so many seconds."""
        held = TakeOver(self._servers.place, pids)
        watch = asyncio.to_thread(held.seconds, LONGEST_TAKE_OVER if away is None else away)
        self._watching.append((away is None, asyncio.create_task(watch)))

    def _tell(self, words: str) -> None:
        if self._say is not None:
            self._say.write(words + "\n")
            self._say.flush()


async def run(
    root: Path, *, kills: int, seed: int, pauses: int = 0, partitions: int = 0,
    plans: Sequence[HostPlan] | None = None,
    broken: str | None = None,
    say: TextIO | None = None,
) -> Report:  # fmt: skip
    """Run the harness in an empty folder, on hosts with these plans, by default those of the form.

    Raises:
        TimeoutError: a host did not come up, or not back.
        RuntimeError: a supervisor ended by itself, or networks are asked for and cannot be made.
    """
    began = time.monotonic()
    plans = plans or (CUT_OFF if partitions else KILLED)
    with ExitStack() as stack:
        networks = stack.enter_context(network(len(plans))) if partitions else None
        servers = stack.enter_context(shared_servers(networks))
        project = write_project(root, "simulated", servers.settings)
        environment = {**servers.environment, "PYTHONPATH": str(PLANTED)}
        if broken is not None:
            environment["CHAOS_BROKEN"] = broken
        if networks is not None:
            environment |= joined(project, plans, networks)
        hosts = hosts_of(project, plans, environment, networks)
        async with running(hosts) as supervisors:
            make_triggers(servers.place)
            chaos = Chaos(hosts, supervisors, servers, networks, seed, say)
            urls = [host.project.url for host in hosts]
            async with Load(hosts[0].project, seed, urls, _CLIENT_SECONDS, _PAUSE) as load:
                await load.start()
                clients = asyncio.create_task(load.run())
                try:
                    await chaos.kill(kills)
                    await chaos.pause(pauses)
                    await chaos.partition(partitions)
                finally:
                    load.stop()
                    await asyncio.wait_for(clients, 90)
                settled = await load.settle()
            killed, others = await chaos.taken_over()
            left = await drained(hosts, supervisors)
        found = _evidence(hosts[-1], load, settled, left, servers)
    return Report(
        seed=seed,
        broken=broken,
        kills=dict(chaos.kills),
        faults=dict(chaos.faults),
        violations=check_all(found),
        take_over=killed,
        take_over_partitioned=others,
        acknowledged=len(found.acknowledged),
        unanswered=load.unanswered,
        refused=len(found.refused),
        receipts=len(found.receipts),
        events=len(found.events),
        publications=len(found.publications),
        jobs=len(found.jobs),
        job_rows=sum(map(len, found.job_rows.values())),
        seconds=time.monotonic() - began,
    )


def _evidence(
    host: Host, load: Load, settled: dict[str, str], left: tuple[str, ...], servers: SharedServers
) -> Evidence:
    jobs = tuple(load.jobs)
    return Evidence(
        acknowledged=tuple(load.acknowledged),
        refused=tuple(load.refused),
        pushed=frozenset(load.pushed),
        jobs=jobs,
        settled=settled,
        left_running=left,
        outputs=chaos_evidence.read_outputs(jobs),
        complaints=complaints(host, [one.prediction for one in load.acknowledged[-1:]]),
        **servers.found(host.project.directory),
    )


def complaints(host: Host, predictions: Sequence[str]) -> tuple[str, ...]:
    """What commands find wrong on this host: the audit log, and these predictions."""
    wrong = []
    for words in (("audit", "verify"), *(("explain", prediction) for prediction in predictions)):
        command = [sys.executable, "-m", "antiphon.cli.main", *words, "--project", str(host.project.root)]
        done = subprocess.run(
            [*host.under, *command], env={**os.environ, **host.environment}, capture_output=True, text=True, timeout=90
        )
        if done.returncode != 0:
            wrong.append(f"{' '.join(words)} ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    return tuple(wrong)


def rank(values: Sequence[float], share: float) -> float:
    """Nearest rank; 0 of nothing."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def table(report: Report) -> str:
    """The report as a table for people."""
    lines = [
        f"seed {report.seed}, {report.seconds:.0f} s under load"
        + (f", without {report.broken}" if report.broken else "")
    ]
    lines += [f"  {name:<16} killed {times:3} times" for name, times in sorted(report.kills.items())]
    lines += [f"  {kind:<16} {times:3} times" for kind, times in sorted(report.faults.items())]
    for name, seconds in report.tables().items():
        if seconds:
            p50, p95 = (rank(seconds, share) for share in (0.5, 0.95))
            figures = f"p50 {p50:.2f} s, p95 {p95:.2f} s, longest {max(seconds):.2f} s"
            lines.append(f"  {name.replace('_', ' ')}: {len(seconds)}, {figures}")
    return "\n".join([*lines, *load_and_checks(report)])


def summary(report: Report) -> dict[str, object]:
    """The report as one JSON line."""
    whole: dict[str, object] = msgspec.to_builtins(report)
    whole["violations"] = {name: len(wrong) for name, wrong in report.violations.items()}
    for name, seconds in report.tables().items():
        figures = {"p50": rank(seconds, 0.5), "p95": rank(seconds, 0.95), "longest": max(seconds, default=0.0)}
        whole[name] = {"number": len(seconds), **figures}
    return {"benchmark": "many_processes", "holds": report.holds, "cores": os.cpu_count(), **whole}


def main(arguments: list[str] | None = None) -> int:
    """Run and print; the exit code is 1 when an invariant was violated, or when none was with a defence off."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.harness.many_processes", description=__doc__)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--pauses", type=int, default=0, help="of workers, for longer than their leases")
    parser.add_argument("--partitions", type=int, default=0)
    parser.add_argument("--broken", help="take this defence away (tests/chaos/harness/planted)")
    parser.add_argument("--seed", type=int, default=20131129, help="what the moments are drawn from")
    parser.add_argument("--keep", type=Path, help="run in this folder and keep it")
    parser.add_argument("--results", type=Path, help="file to which the JSON line is appended")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="antiphon-chaos-") as temporary:
        report = asyncio.run(
            run(
                options.keep or Path(temporary), kills=options.kills, pauses=options.pauses,
                partitions=options.partitions, seed=options.seed, broken=options.broken,
                say=sys.stderr,
            )
        )  # fmt: skip
    line = json.dumps(summary(report))
    if options.results is not None:
        with options.results.open("a", encoding="utf-8") as results:
            results.write(line + "\n")
    sys.stdout.write(table(report) + "\n" + line + "\n")
    return 0 if report.holds == (options.broken is None) else 1


if __name__ == "__main__":
    sys.exit(main())
