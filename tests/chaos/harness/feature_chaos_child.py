"""The process that the feature platform's kill harness kills: the platform at work on a real project.

A zygote imports everything, opens nothing, and forks one life for every line it is told. A life that works says what
it does line by line: ``begin OPERATION``, ``in PHASE``, ``after PHASE SECONDS``, ``end OPERATION SECONDS``, and
``acked BATCH`` once events are in the log. A life that settles reads first what a restarted process would serve, then
lets everything that is open be finished, collects, reads again and says what it found as one line of JSON.

``break=NAME`` switches one defence off, so that the harness can be seen to fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.chaos.harness import feature_chaos_broken
from tests.chaos.harness.feature_chaos_project import SHOPS, STREAM, base_of, batch, moments

from antiphon.catalog.features.events import Event
from antiphon.catalog.features.publications import OnlinePublications, Publication, Publications
from antiphon.core.child_process import end_with_parent
from antiphon.core.clock import SystemClock
from antiphon.core.errors import AntiphonError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.features.offline.refresh import WORKFLOW
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.online.redis import writer as redis_writer
from antiphon.features.online.redis.store import RedisStore
from antiphon.services.apply.apply import apply
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store

KEPT = 3
"""Publications that a collection leaves in place."""

_BUILDING_MILLISECONDS = 2_000
"""A build that was killed is soon given up."""

_SLICE = 7
"""Events of one transaction of the consumer; a batch is thus consumed in several."""

OPERATIONS = {
    "append": ("append",),
    "consume": ("overlay apply",),
    "refresh": ("materialize", "gate", "publish", "online build", "manifest", "publication row"),
    "collect": ("prune", "expire", "online collect", "lake collect", "overlay prune"),
    "rollback": ("online build", "overlay restore", "rollback row"),
    "release": ("publish", "online build", "publication row"),
}
"""What a working life does, with the phases of each that can be aimed at."""

_BATCHES = 4
_RUN_SECONDS = 60.0


def say(line: str) -> None:
    """One whole line to whoever reads, at once."""
    os.write(1, line.encode() + b"\n")


@contextmanager
def operation(name: str) -> Iterator[None]:
    """Say that an operation begins and ends."""
    say(f"begin {name}")
    began = time.monotonic()
    yield
    say(f"end {name} {time.monotonic() - began:.6f}")


def announce(target: Any, method: str, phase: str) -> None:
    """Say whenever a method of this object begins, and that what called it goes on."""
    original: Callable[..., Any] = getattr(target, method)

    def announced(*args: Any, **named: Any) -> Any:
        say(f"in {phase}")
        began = time.monotonic()
        try:
            return original(*args, **named)
        finally:
            say(f"after {phase} {time.monotonic() - began:.6f}")

    setattr(target, method, announced)


def serve_announced(store: Store) -> None:
    """Serve what a publisher that was killed had announced, as a reader does after two seconds: a collection spares one
    publication more while one is announced."""
    for announced in store.publications.online(store.scope).announced[-1:]:
        store.publications.serve(announced)


class Life:
    """One process's life on the project."""

    def __init__(self, root: Path, order: dict[str, Any]) -> None:
        self._seed, self._base = int(order["seed"]), base_of(order["base"])
        self._order = order
        self.store = Store.open(root)
        self.platform = FeaturePlatform(self.store)
        feature_chaos_broken.switch_off(order.get("break"), self.platform)
        platform = self.platform
        announce(platform.refresher, "_materialize", "materialize")
        announce(platform.refresher, "_gate", "gate")
        announce(platform.publisher, "publish", "publish")
        announce(platform.online, "build", "online build")
        announce(self.store.snapshots, "add", "manifest")
        announce(self.store.publications, "publish", "publication row")
        announce(self.store.publications, "rollback", "rollback row")
        announce(self.store.events, "append", "append")
        announce(platform.overlay, "apply", "overlay apply")
        announce(platform.overlay, "prune", "overlay prune")
        announce(platform.overlay, "restore", "overlay restore")
        announce(self.store.snapshots, "prune", "prune")
        announce(self.store.verdicts, "expire", "expire")
        announce(platform.lake, "collect", "lake collect")
        announce(platform.online, "collect", "online collect")

    def work(self) -> None:
        """The ordered operations in turn, until killed or there are no more."""
        number = int(self._order["batch"])
        for turn, name in enumerate(self._order["operations"]):
            with operation(name):
                if name == "append":
                    for _ in range(_BATCHES):
                        self._append(number)
                        say(f"acked {number}")
                        number += 1
                elif name == "consume":
                    while self.platform.consume(_SLICE):
                        pass
                elif name == "refresh":
                    self._refresh(f"turn {self._order['life']}-{turn}")
                elif name == "collect":
                    self._collect()
                elif name == "release":
                    self.platform.refresher.release_staged()
                else:
                    self._rollback()

    def settle(self) -> dict[str, Any]:
        """What is served right after the start, and after everything open was finished and collected."""
        found: dict[str, Any] = {"at_once": self._served(1)}
        self._append(int(self._order["batch"]))  # the client's last one again: it had no answer
        while self.platform.consume(1_000):
            pass
        found["runs"] = asyncio.run(self._run_open())
        self._wait_for_abandoned_builds()
        serve_announced(self.store)
        cutoff = time.time()
        self._collect()
        found["cutoff"] = cutoff
        found["settled"] = self._served(KEPT)
        found["consumed"] = {
            view.view: [view.consumed, stream.end]
            for stream in self.platform.consumer.status(datetime.now(UTC))
            for view in stream.views
        }
        return found

    def _wait_for_abandoned_builds(self) -> None:
        """Until the marks of builds that a kill cut off have run out: until then a collection leaves them alone."""
        if isinstance(self.platform.online, RedisStore):
            end = time.monotonic() + 2 * _BUILDING_MILLISECONDS / 1e3
            client = self.platform.online._server.client
            while next(client.scan_iter(match="*:building", count=1_000), None) is not None and time.monotonic() < end:
                time.sleep(0.05)

    def _append(self, number: int) -> None:
        events = [
            Event(row["order_id"], row["ordered"], row["known"], {"shop": row["shop"], "amount": row["amount"]})
            for row in batch(self._seed, self._base, number)
        ]
        self.store.events.append(self.store.scope, STREAM, events)

    def _refresh(self, reason: str) -> None:
        self.platform.refresh(self.store.scope, reason=reason)
        asyncio.run(self._run_open())

    def _collect(self) -> None:
        self.platform.pruner.prune(keep=KEPT, grace=timedelta(0))

    def _rollback(self) -> None:
        """To the publication before those that are kept: its builds and events were collected, and its files may have
        been pruned."""
        current = self.store.publications.current(self.store.scope)
        if current is not None and current.number > KEPT + 1:
            with suppress(NotFoundError):
                self.platform.publisher.rollback(current.number - KEPT - 1, reason="chaos", principal="chaos")

    async def _run_open(self) -> dict[str, str]:
        """Work until no run is open; how each ended that did not succeed."""
        registry, stop, clock = WorkflowRegistry(), asyncio.Event(), SystemClock()
        registry.add(WORKFLOW, self.platform.refresher.refresh)
        executor = Executor(self.store.database, registry, "chaos", Scope(), clock, concurrency=1, poll=0.01)
        working = asyncio.create_task(executor.run_until(stop))
        give_up = time.monotonic() + _RUN_SECONDS
        runs: list[Run] = []
        while time.monotonic() < give_up:
            runs = self.store.runs.list(self.store.scope)
            if all(run.status in ENDED for run in runs):
                break
            await asyncio.sleep(0.01)
        stop.set()
        await working
        return {run.id: f"{run.status}: {run.error}" for run in runs if run.status != "succeeded"}

    def _served(self, kept: int) -> list[dict[str, Any]]:
        """Every value of the last publications, as a process that begins now reads them."""
        scope, found = self.store.scope, []
        known = self.platform.views()
        for publication in self.store.publications.list(scope, kept):
            views = {known[key].name: known[key].definition_version for key in publication.snapshots}
            reader = FeatureReader(
                scope,
                publications=_Fixed(publication, self.store.publications),
                online=self.platform.online,
                clock=self.store.database.clock,
                overlay=self.platform.overlay,
                lease=0.0,
            )
            for as_of in moments(self._base):
                said: dict[str, Any] = {"publication": publication.number, "as_of": as_of.isoformat()}
                try:
                    read = reader.read_many(views, [{"shop": shop} for shop in SHOPS], as_of)
                except AntiphonError as error:
                    found.append({**said, "failed": str(error)})
                    continue
                said["read"] = read[0].publication
                said["values"] = {
                    shop: {name: one.value for name, one in vector.values.items()}
                    for shop, vector in zip(SHOPS, read, strict=True)
                }
                found.append(said)
        return found

    def close(self) -> None:
        """Close what was opened."""
        self.platform.close()
        self.store.close()


class _Fixed(Publications):
    """Publications whose current one stays the same."""

    def __init__(self, publication: Publication, publications: Publications) -> None:
        self._publication = publication
        self._publications = publications

    def online(self, scope: Scope, *, within: Any = None) -> OnlinePublications:
        return OnlinePublications(self._publication)

    def get(self, scope: Scope, number: int, *, within: Any = None) -> Publication:
        raise NotFoundError(f"Publication {number} is not the one that was asked for.", where=str(scope))


def live(order: dict[str, Any]) -> None:
    """One life, as it is ordered."""
    life = Life(Path(order["root"]), order)
    try:
        if order["do"] == "apply":
            apply(life.store, principal="chaos")
            say("applied")
        elif order["do"] == "settle":
            say("settled " + json.dumps(life.settle()))
        else:
            life.work()
            say("done")
    finally:
        life.close()


def zygote(live: Callable[[dict[str, Any]], None]) -> None:
    """Import what a life needs and open nothing, then begin lives: for whoever speaks on standard input and output, or
    in a fork each for those who speak on the pairs of descriptors that the command line names."""
    import duckdb
    import lmdb
    import pyarrow.parquet
    import redis

    assert all((duckdb, lmdb, pyarrow, redis))
    vars(redis_writer)["BUILDING_MILLISECONDS"] = _BUILDING_MILLISECONDS
    pairs = [[int(one) for one in pair.split(",")] for pair in sys.argv[1:]]
    if not pairs:
        _begin_lives(live)
        return
    first = os.getpid()
    for mine in pairs:
        if os.fork() == 0:
            end_with_parent(first)
            for place, one in enumerate(mine):
                os.dup2(one, place)
            os.closerange(3, max(map(max, pairs)) + 1)
            _begin_lives(live)
            os._exit(0)
    os.closerange(3, max(map(max, pairs)) + 1)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _begin_lives(live: Callable[[dict[str, Any]], None]) -> None:
    """One JSON order a line, one forked life each; ``pid N`` and in the end ``ended CODE`` are said, which is answered
    by an empty line."""
    zygote = os.getpid()
    say("ready")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            end_with_parent(zygote)
            code = 1
            with suppress(BaseException):
                try:
                    live(json.loads(line))
                    code = 0
                except BaseException:
                    traceback.print_exc()
            os._exit(code)
        say(f"pid {child}")
        # Left unreaped, so that whoever kills it late can hit nobody else.
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        # On a line of its own, whatever the life was saying.
        say(f"\nended {ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status}")
        sys.stdin.readline()
        os.waitpid(child, 0)


if __name__ == "__main__":
    zygote(live)
