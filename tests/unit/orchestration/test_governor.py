"""The policy by itself, and the governor over an engine and a training that do what the test says."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from antiphon.core.errors import UnavailableError
from antiphon.engine.api.messages import EngineDescription, EngineInstance, EngineLoad
from antiphon.orchestration.governor import Governor, GovernorState, decide

QUIET = 1.0
CALM = EngineLoad()


def looks(*seen: tuple[float, EngineLoad], start: float = 0.0) -> list[bool]:
    """Whether training is paused after each look (time, load)."""
    governed = GovernorState(start)
    paused = []
    for now, load in seen:
        governed = decide(load, governed, now, quiet=QUIET)
        paused.append(governed.paused)
    return paused


@pytest.mark.parametrize("busy", [EngineLoad(running_online=1), EngineLoad(waiting_online=1)])
def test_one_online_request_pauses_at_once_and_a_quiet_time_resumes(busy: EngineLoad) -> None:
    seen = looks((0, CALM), (1, busy), (1.5, CALM), (1.9, CALM), (2.0, CALM), (2.1, CALM))
    assert seen == [False, True, True, True, False, False]


def test_every_online_request_begins_the_quiet_time_anew() -> None:
    busy = EngineLoad(running_online=1)
    assert looks((0, busy), (0.9, CALM), (0.95, busy), (1.9, CALM), (1.96, CALM)) == [True, True, True, True, False]


def test_a_request_that_came_and_went_between_two_looks_is_seen() -> None:
    assert looks((0, CALM), (1, EngineLoad(generated_tokens_online=3))) == [False, True]
    # What was generated before training began says nothing.
    assert looks((0, EngineLoad(generated_tokens_online=99)), (1, EngineLoad(generated_tokens_online=99))) == [
        False,
        False,
    ]
    # An engine that was started again counts from nothing.
    assert looks((0, EngineLoad(generated_tokens_online=99)), (1, CALM), (2, CALM)) == [False, True, False]


def test_batch_work_pauses_nothing() -> None:
    assert looks((0, EngineLoad(running_batch=16, waiting_batch=900, generated_tokens_batch=7))) == [False]


def test_the_paused_share_counts_pauses_that_are_over_and_the_present_one() -> None:
    busy = EngineLoad(running_online=1)
    governed = GovernorState(10.0)
    for now, load in ((11.0, busy), (12.0, CALM), (14.0, busy)):
        governed = decide(load, governed, now, quiet=QUIET)
    assert governed.paused_share(12.0 + 4.0) == pytest.approx((1 + 2) / 6)
    assert GovernorState(5.0).paused_share(5.0) == 0.0


@dataclass
class Engine:
    load: EngineLoad = CALM
    away: bool = False
    asked: int = 0
    loads: dict[str, EngineLoad] = field(default_factory=dict)

    async def describe(self) -> EngineDescription:
        self.asked += 1
        if self.away:
            raise UnavailableError("The engine cannot be reached.")
        instances = tuple(
            EngineInstance(f"engine@{host}", host, host, "", "", {}, {}, load) for host, load in self.loads.items()
        )
        return EngineDescription("d", (), self.load, instances=instances)


@dataclass
class Changing:
    """Something that tells when it changes."""

    listeners: list[Callable[[], object]] = field(default_factory=list)

    def listen(self, call: Callable[[], object]) -> None:
        self.listeners.append(call)

    def changed(self) -> None:
        for call in self.listeners:
            call()


@dataclass
class Training(Changing):
    running: list[str] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)
    pauses: int = 0
    held: bool = False

    def pause_all(self) -> None:
        self.pauses += 1
        self.held = True
        self.stopped |= set(self.running)

    def resume_all(self) -> None:
        self.held = False
        self.stopped.clear()


@dataclass
class Exchange(Changing):
    """Other workers, whose trainings are to pause for users of these hosts, and what they were told last."""

    hosts: set[str] = field(default_factory=set)
    reported: frozenset[str] | None = frozenset()

    @property
    def others_train(self) -> bool:
        return bool(self.hosts)

    def concerns(self, host: str) -> bool:
        return host in self.hosts

    def report(self, busy: frozenset[str] | None) -> None:
        self.reported = busy


@contextlib.asynccontextmanager
async def governed(engine: Engine, training: Training, **options: Any) -> AsyncIterator[Governor]:
    stop = asyncio.Event()
    governor = Governor(engine, training, quiet=0.02, poll=0.001, **options)
    running = asyncio.create_task(governor.run_until(stop))
    try:
        async with asyncio.timeout(10):
            yield governor
    finally:
        stop.set()
        await running
        assert not training.stopped


async def looked(engine: Engine, times: int = 3) -> None:
    goal = engine.asked + times
    while engine.asked < goal:
        await asyncio.sleep(0.001)


async def test_training_stops_for_online_work_and_goes_on_afterwards() -> None:
    engine, training = Engine(), Training(running=["run_1"])
    async with governed(engine, training):
        await looked(engine)
        assert not training.stopped
        engine.load = EngineLoad(running_online=1)
        while not training.stopped:
            await asyncio.sleep(0)
        training.running.append("run_2")
        while training.stopped != {"run_1", "run_2"}:
            await asyncio.sleep(0)
        # Nothing new: it is not told again, so that work which is being ended is not stopped a second time.
        pauses = training.pauses
        training.running.remove("run_1")
        await looked(engine)
        assert training.pauses == pauses
        engine.load = CALM
        while training.stopped:
            await asyncio.sleep(0)


async def test_a_look_lasts_until_an_online_request_comes_while_training_runs() -> None:
    engine, training, stop = Engine(), Training(running=["run_1"]), asyncio.Event()
    arrived, watched = asyncio.Event(), 0

    async def watch(seconds: float) -> EngineDescription:
        nonlocal watched
        watched += 1
        await arrived.wait()
        return await engine.describe()

    governor = Governor(engine, training, quiet=0.02, poll=0.001, watch=watch)
    running = asyncio.create_task(governor.run_until(stop))
    async with asyncio.timeout(10):
        while not watched:
            await asyncio.sleep(0.001)
        await asyncio.wait({running}, timeout=0.05)
        assert (watched, engine.asked) == (1, 0)
        engine.load = EngineLoad(running_online=1)
        arrived.set()
        while not training.stopped:
            await asyncio.sleep(0)
        await looked(engine)  # A paused training is looked after as before: it goes on after the quiet time.
        assert watched == 1
        engine.load = CALM
        while training.stopped:
            await asyncio.sleep(0)
        stop.set()
        await running


async def test_a_governor_that_ends_leaves_nothing_stopped() -> None:
    engine, training = Engine(EngineLoad(waiting_online=1)), Training(running=["run_1"])
    async with governed(engine, training):
        while not training.stopped:
            await asyncio.sleep(0)
    assert not training.stopped


async def test_training_that_ends_while_paused_leaves_the_next_one_free() -> None:
    engine, training = Engine(EngineLoad(waiting_online=1)), Training(running=["run_1"])
    async with governed(engine, training) as governor:
        while not training.held:
            await asyncio.sleep(0)
        training.running.clear()
        while governor.governed is not None:
            await asyncio.sleep(0.001)
        assert not training.held


async def test_an_engine_out_of_sight_resumes_nothing_and_is_spoken_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine, training = Engine(EngineLoad(running_online=1)), Training(running=["run_1"])
    async with governed(engine, training):
        while not training.stopped:
            await asyncio.sleep(0)
        engine.away, engine.load = True, CALM
        await looked(engine, 60)
        assert training.stopped
        assert caplog.text.count("stays paused until it is seen again") == 1
        engine.away = False
        while training.stopped:
            await asyncio.sleep(0)
    assert "in sight again" in caplog.text


async def test_an_engine_that_was_never_seen_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    engine, training = Engine(away=True), Training(running=["run_1"])
    async with governed(engine, training):
        await looked(engine)
        assert not training.stopped
    assert "goes on as it is" in caplog.text


async def test_without_training_the_engine_is_not_asked() -> None:
    engine, training = Engine(), Training()
    async with governed(engine, training) as governor:
        await asyncio.sleep(0.01)
        assert engine.asked == 0
        training.running.append("run_1")
        training.changed()
        await looked(engine)
        assert governor.governed is not None
        training.running.clear()
        while governor.governed is not None:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("everywhere", [False, True])
async def test_training_stops_for_users_of_its_own_host_or_of_every_one(everywhere: bool) -> None:
    engine, training = Engine(loads={"north": CALM, "south": EngineLoad(running_online=3)}), Training(running=["run_1"])
    async with governed(engine, training, host="north", everywhere=everywhere):
        await looked(engine)
        assert bool(training.stopped) == everywhere
        engine.loads["north"] = EngineLoad(waiting_online=1)
        while not training.stopped:
            await asyncio.sleep(0)
        engine.loads["north"] = CALM
        if everywhere:
            engine.loads["south"] = CALM
        while training.stopped:
            await asyncio.sleep(0)


async def test_hosts_with_users_are_reported_for_the_trainings_of_others() -> None:
    busy = EngineLoad(running_online=1)
    engine, training, exchange = Engine(loads={"north": busy, "south": busy, "west": CALM}), Training(), Exchange()
    async with governed(engine, training, host="north", exchange=exchange):
        await asyncio.sleep(0.01)
        assert engine.asked == 0, "nobody trains"
        exchange.hosts = {"south", "west"}
        exchange.changed()
        while exchange.reported != {"south"}:
            await asyncio.sleep(0.001)
        engine.loads["west"] = busy
        while exchange.reported != {"south", "west"}:
            await asyncio.sleep(0.001)
        engine.away = True
        while exchange.reported is not None:
            await asyncio.sleep(0.001)
        engine.away, engine.loads["south"] = False, CALM
        while exchange.reported != {"west"}:
            await asyncio.sleep(0.001)
        assert not training.pauses
        training.running.append("run_1")
        exchange.hosts = set()
        while not training.stopped:
            await asyncio.sleep(0.001)
        assert exchange.reported == {"north"}


async def test_long_pauses_are_spoken_of_with_their_share(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    engine, training, stop = Engine(EngineLoad(running_online=1)), Training(running=["run_1"]), asyncio.Event()
    governor = Governor(engine, training, poll=0.001, monotonic=lambda: now[0])
    running = asyncio.create_task(governor.run_until(stop))
    async with asyncio.timeout(10):
        while not training.stopped:
            await asyncio.sleep(0)
        now[0] = 59.0
        await looked(engine)
        assert "has been paused" not in caplog.text
        now[0] = 61.0
        await looked(engine)
        assert "paused for 61 s" in caplog.text
        assert "100 %" in caplog.text
        assert caplog.text.count("has been paused") == 1
        now[0] = 122.0
        await looked(engine)
        assert caplog.text.count("has been paused") == 2
        stop.set()
        await running
