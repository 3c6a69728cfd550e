"""What workers write for each other's trainings and obey, and what they do when the catalog or a writer is away."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.unit.catalog.examples import open_database

from antiphon.catalog.training_pauses import EVERY_HOST, TrainingPauses
from antiphon.core.clock import ManualClock
from antiphon.core.errors import UnavailableError
from antiphon.orchestration.training_pauses import ANNOUNCED_SECONDS, HOLD_SECONDS, TrainingPauseExchange


@dataclass
class Training:
    running: list[str] = field(default_factory=list)
    paused_by: set[str] = field(default_factory=set)

    def pause_all(self, by: str = "") -> None:
        self.paused_by.add(by)

    def resume_all(self, by: str = "") -> None:
        self.paused_by.discard(by)


class Cluster:
    """Workers of some hosts on one catalog; time passes for all of them at once."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(datetime(2013, 4, 10, tzinfo=UTC))
        self.pauses = TrainingPauses(open_database(folder, clock=self.clock), "dev")
        self.workers: list[Worker] = []

    def worker(self, host: str, *, trains: bool = False, governed: bool = True, everywhere: bool = False) -> Worker:
        return Worker(self, host, trains, governed, everywhere)

    def settle(self, seconds: float = 1.0) -> None:
        """Every worker exchanges, twice: one hears of what another wrote."""
        self.clock.advance(timedelta(seconds=seconds))
        for _ in range(2):
            for worker in self.workers:
                worker.look()


class Worker:
    def __init__(self, cluster: Cluster, host: str, trains: bool, governed: bool, everywhere: bool) -> None:
        name = f"worker-{len(cluster.workers)}@{host}"
        self.training = Training(["run"] if trains else [])
        self.busy: frozenset[str] | None = frozenset()
        self.exchange = TrainingPauseExchange(
            cluster.pauses,
            self.training,
            host=host,
            worker=name,
            holder=f"process of {name}",
            governed=governed,
            everywhere=everywhere,
            monotonic=cluster.clock.monotonic,
        )
        cluster.workers.append(self)

    def sees(self, *hosts: str) -> None:
        self.busy = frozenset(hosts)

    def look(self) -> None:
        self.exchange.report(self.busy)
        with contextlib.suppress(UnavailableError):
            self.exchange.exchange()
        self.exchange._obey()

    @property
    def paused(self) -> bool:
        return bool(self.training.paused_by)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_training_is_paused_by_another_worker_that_sees_the_users_of_its_host(cluster: Cluster) -> None:
    trainer, watcher = cluster.worker("north", trains=True), cluster.worker("south")
    cluster.settle()
    assert (watcher.exchange.others_train, watcher.exchange.concerns("north")) == (True, True)
    assert not trainer.paused
    watcher.sees("north", "south")
    cluster.settle()
    assert trainer.paused
    assert [pause.host for pause in cluster.pauses.known()[0]] == ["north"], "nobody trains on the other"
    for _ in range(20):
        cluster.settle()
        assert trainer.paused, "it is prolonged while there are users"
    watcher.sees()
    cluster.settle()
    assert not trainer.paused
    assert cluster.pauses.known()[0] == ()


def test_users_of_another_host_pause_only_what_is_to_pause_everywhere(cluster: Cluster) -> None:
    own, all_hosts = cluster.worker("north", trains=True), cluster.worker("west", trains=True, everywhere=True)
    unwatched = cluster.worker("south", trains=True, governed=False)
    watcher = cluster.worker("south")
    watcher.sees("south")
    cluster.settle()
    cluster.settle()
    assert (own.paused, all_hosts.paused, unwatched.paused) == (False, True, False)


def test_of_several_who_see_the_same_users_one_writes(cluster: Cluster) -> None:
    trainer = cluster.worker("north", trains=True)
    watchers = [cluster.worker(host) for host in ("south", "west", "east")]
    cluster.settle()
    for watcher in watchers:
        watcher.sees("north")
    for _ in range(12):
        cluster.settle()
        assert len(cluster.pauses.known()[0]) == 1
        assert trainer.paused
    # The writer dies: another one writes before its row ends.
    cluster.workers.remove(watchers[0])
    for _ in range(12):
        cluster.settle()
        assert trainer.paused


def test_a_writer_that_died_stops_training_no_longer_than_its_row(cluster: Cluster) -> None:
    trainer, watcher = cluster.worker("north", trains=True), cluster.worker("south")
    cluster.settle()
    watcher.sees("north")
    cluster.settle()
    cluster.workers.remove(watcher)
    cluster.settle(HOLD_SECONDS - 1)
    assert trainer.paused
    cluster.settle(2)
    assert not trainer.paused


def test_a_governor_that_sees_nothing_neither_prolongs_nor_ends_a_pause(cluster: Cluster) -> None:
    trainer, watcher = cluster.worker("north", trains=True), cluster.worker("south")
    cluster.settle()
    watcher.sees("north")
    cluster.settle()
    watcher.busy = None
    cluster.settle(HOLD_SECONDS - 1)
    assert trainer.paused
    cluster.settle(2)
    assert not trainer.paused
    watcher.sees()
    cluster.settle()
    watcher.sees("north")
    cluster.settle()
    assert trainer.paused


def test_while_the_catalog_is_away_a_pause_lasts_until_the_moment_it_was_given(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, watcher = cluster.worker("north", trains=True), cluster.worker("south")
    cluster.settle()
    watcher.sees("north")
    cluster.settle()
    assert trainer.paused

    def away(*_: object, **__: object) -> None:
        raise UnavailableError("The catalog is away.")

    with monkeypatch.context() as patched:
        for method in ("known", "hold", "end", "announce"):
            patched.setattr(cluster.pauses, method, away)
        cluster.settle(HOLD_SECONDS - 1)
        assert trainer.paused
        cluster.settle(2)
        assert not trainer.paused, "it does not stand still for ever"
    cluster.settle()
    cluster.settle()
    assert trainer.paused, "and is stopped again for users who are there when the catalog is back"


def test_an_order_is_obeyed_whatever_is_served_and_ends_by_itself(cluster: Cluster) -> None:
    one, other = cluster.worker("north", trains=True), cluster.worker("south", trains=True, governed=False)
    cluster.pauses.hold("north", "ada", "a demonstration", 60, ordered=True)
    cluster.settle()
    assert (one.paused, other.paused) == (True, False)
    cluster.pauses.hold(EVERY_HOST, "ada", "a demonstration", 60, ordered=True)
    cluster.settle()
    assert (one.paused, other.paused) == (True, True)
    cluster.settle(61)
    assert (one.paused, other.paused) == (False, False)


def test_a_worker_announces_its_trainings_until_they_end(cluster: Cluster) -> None:
    trainer, watcher = cluster.worker("north", trains=True), cluster.worker("south")
    for _ in range(5):
        cluster.settle(ANNOUNCED_SECONDS / 2)
        assert watcher.exchange.others_train
        assert not trainer.exchange.others_train, "its own is not another's"
    trainer.training.running.clear()
    cluster.settle()
    assert not watcher.exchange.others_train


async def test_what_was_written_ends_with_the_worker_and_what_it_paused_goes_on(cluster: Cluster) -> None:
    trainer, watcher = cluster.worker("north", trains=True), cluster.worker("south", trains=True)
    cluster.settle()
    watcher.sees("north")
    trainer.sees("south")
    cluster.settle()
    assert trainer.paused
    assert watcher.paused
    stop = asyncio.Event()
    stop.set()
    await watcher.exchange.run_until(stop)
    assert not watcher.paused
    assert [pause.host for pause in cluster.pauses.known()[0]] == ["south"]
    assert [one.host for one in cluster.pauses.known()[1]] == ["north"]
