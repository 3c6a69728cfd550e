"""The gate in front of an engine: order, bounds, honest refusals, no place lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from antiphon.core.errors import EngineError, OverloadedError
from antiphon.engine.api.messages import Delta, EngineDescription, GenerationRequest, GenerationResult, GenerationUsage
from antiphon.serving.admission.engine_gate import EngineGate, GatedEngine
from antiphon.serving.admission.refusals import REFUSALS, SlotReleaseRate


class Ticking:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Held:
    """An engine whose generations end when they are told to."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}

    async def describe(self) -> EngineDescription:
        raise EngineError("It is not asked here.")

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        self.running.append(request.id)
        end = self.ends.setdefault(request.id, asyncio.Event())
        try:
            yield Delta(request.id, "a")
            await end.wait()
            yield GenerationResult(request.id, "stop", "a", GenerationUsage(1, 0, 1, 0, 1, 0.0, 0.0, 0.0, 0.0), "fp")
        finally:
            self.running.remove(request.id)


def asked(name: str, **fields: object) -> GenerationRequest:
    return GenerationRequest(name, "m", "p", 8, **fields)  # type: ignore[arg-type]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class World:
    def __init__(self, start: int = 2, queue: float = 30.0) -> None:
        self.clock, self.engine = Ticking(), Held()
        self.gate = EngineGate(start, 64, queue, self.clock, adaptive=False)
        self.gated = GatedEngine(self.engine, self.gate, self.clock, tells_queue=True)
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, **fields: object) -> asyncio.Task[None]:
        async def run() -> None:
            async with aclosing(self.gated.generate(asked(name, **fields))) as events:
                async for _ in events:
                    pass

        self.tasks[name] = asyncio.create_task(run())
        await settle()
        return self.tasks[name]

    async def end(self, name: str) -> None:
        self.engine.ends[name].set()
        await self.tasks[name]
        await settle()


async def test_priority_goes_ahead_and_others_in_order() -> None:
    world = World()
    for name, ahead in (("a", False), ("b", False), ("c", False), ("d", False), ("e", True)):
        await world.ask(name, ahead=ahead)
    assert world.engine.running == ["a", "b"]
    assert world.gate.status.waiting == 3
    await world.end("a")
    assert world.engine.running == ["b", "e"]
    await world.end("b")
    await world.end("e")
    assert world.engine.running == ["c", "d"]
    await world.end("c")
    await world.end("d")
    assert (world.gate.status.inside, world.gate.status.waiting) == (0, 0)


async def test_batch_work_never_counts() -> None:
    world = World(start=1)
    await world.ask("online")
    for number in range(5):
        await world.ask(f"batch-{number}", priority="batch")
    assert len(world.engine.running) == 6
    assert world.gate.status.inside == 1
    for name in list(world.tasks):
        await world.end(name)


async def test_whoever_leaves_while_waiting_or_inside_leaves_no_place_taken() -> None:
    world = World(start=1)
    for name in ("inside", "waits", "next"):
        await world.ask(name)
    world.tasks["waits"].cancel()
    await settle()
    world.tasks["inside"].cancel()
    await settle()
    assert world.engine.running == ["next"]
    # A place that is given in the moment of the departure goes on to the one behind.
    await world.ask("gone")
    await world.ask("last")
    world.engine.ends["next"].set()
    while world.gate.status.waiting == 2:
        await asyncio.sleep(0)
    world.tasks["gone"].cancel()
    await settle()
    assert world.engine.running == ["last"]
    await world.end("last")
    assert world.gate.status.inside == 0


async def test_an_engine_that_fails_gives_its_place_back() -> None:
    world = World(start=1)

    class Broken(Held):
        async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
            raise EngineError("It died.")
            yield

    world.gated = GatedEngine(Broken(), world.gate, world.clock, tells_queue=True)
    task = await world.ask("a")
    with pytest.raises(EngineError):
        await task
    assert world.gate.status.inside == 0


async def test_who_would_wait_too_long_is_refused_at_once_with_a_moment_of_their_own() -> None:
    world = World(start=1, queue=4.0)
    await world.ask("first")
    for number in range(5):  # two a second come out, while it is full
        await world.ask(f"x{number}")
        world.clock.now += 0.5
        await world.end("first" if number == 0 else f"x{number - 1}")
    assert world.gate.status.pace == pytest.approx(2.0)
    for number in range(4):
        await world.ask(f"w{number}")
    assert world.gate.status.waiting == 4
    waits = []
    for number in range(3):
        with pytest.raises(OverloadedError) as refused:
            await (await world.ask(f"r{number}"))
        waits.append(refused.value.retry_after)
    # Four wait, which takes two seconds: there is room when two have gone, for the others one by one after that.
    assert waits == pytest.approx([1.5, 2.0, 2.5])
    # Whoever asks on and on all the same is answered later.
    for number in range(3, REFUSALS.capacity):
        with pytest.raises(OverloadedError):
            await (await world.ask(f"r{number}"))
    held = await world.ask("held")
    assert not held.done()
    with pytest.raises(OverloadedError):
        await held
    # One that goes ahead waits behind nobody.
    await world.ask("ahead", ahead=True)
    assert world.gate.status.waiting == 5
    for task in world.tasks.values():
        task.cancel()
    await asyncio.gather(*world.tasks.values(), return_exceptions=True)
    assert (world.gate.status.inside, world.gate.status.waiting) == (0, 0)


async def test_waiting_ends_with_the_queues_bound() -> None:
    world = World(start=1, queue=0.05)
    await world.ask("first")
    with pytest.raises(OverloadedError):
        await (await world.ask("second"))
    assert world.gate.status.waiting == 0
    await world.end("first")


async def test_an_idle_time_is_no_slow_release() -> None:
    world = World(start=1, queue=10.0)
    await world.ask("first")
    for number in range(3):
        await world.ask(f"x{number}")
        world.clock.now += 0.5
        await world.end("first" if number == 0 else f"x{number - 1}")
    await world.end("x2")
    world.clock.now += 600.0  # by the last burst's releases a place would now take minutes
    await world.ask("second")
    await world.ask("third")
    assert (world.gate.status.inside, world.gate.status.waiting, world.gate.status.pace) == (1, 1, 0.0)
    await world.end("second")
    await world.end("third")


def test_a_drain_that_stands_still_slows_and_a_calm_one_is_forgotten() -> None:
    clock = Ticking()
    drain = SlotReleaseRate(clock)
    assert (drain.per_second, drain.retry_after(0.0)) == (0.0, 1.0)
    for _ in range(11):
        drain.ended(full=True)
        clock.now += 0.1
    assert drain.per_second == pytest.approx(10 / 1.1)
    clock.now += 8.9
    assert drain.per_second == pytest.approx(1.0)
    drain.ended(full=False)
    assert drain.per_second == 0.0


async def entered(gate: EngineGate, wanted: list[tuple[str, float]]) -> list[str]:
    """Ask for a place for each (tenant, tokens) at once; the tenants in the order in which they get one, if one leaves
    whenever one has come in."""
    order: list[str] = []
    settled = asyncio.Event()

    async def one(tenant: str, tokens: float) -> None:
        await gate.enter(1, tenant, tokens)
        order.append(tenant)
        settled.set()

    tasks = []
    for tenant, tokens in wanted:
        tasks.append(asyncio.create_task(one(tenant, tokens)))
        await settle()
    left = 0
    while left < len(wanted):
        while len(order) <= left:
            settled.clear()
            await asyncio.wait_for(settled.wait(), 5)
        gate.leave(order[left])
        left += 1
        await settle()
    await asyncio.gather(*tasks)
    return order


async def test_a_tenant_does_not_wait_behind_all_that_another_has() -> None:
    gate = EngineGate(2, 64, 30.0, Ticking(), adaptive=False)
    order = await entered(gate, [("many", 10.0)] * 10 + [("few", 10.0)] * 3)
    assert order[:3] == ["many", "many", "few"], "the first of a tenant that has nothing inside does not wait"
    # From then on by turns.
    assert order.index("few", 4) <= 6
    assert max(index for index, tenant in enumerate(order) if tenant == "few") <= 9


@pytest.mark.parametrize(("share", "of_twenty"), [(1.0, 10), (3.0, 15)])
async def test_tenants_are_let_in_by_their_share(share: float, of_twenty: int) -> None:
    gate = EngineGate(8, 64, 30.0, Ticking(), adaptive=False, share={"a": 1.0, "b": share}.__getitem__)
    order = await entered(gate, [("a", 10.0)] * 40 + [("b", 10.0)] * 40)
    assert abs(order[12:32].count("b") - of_twenty) <= 2


async def test_the_engine_is_told_the_share_of_a_request_s_tenant() -> None:
    world = World()
    world.gate.share = {"b": 2.0, "": 1.0}.__getitem__
    told: dict[str, float] = {}
    generate = world.engine.generate

    def noted(request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        told[request.id] = request.share
        return generate(request)

    world.engine.generate = noted  # type: ignore[method-assign]
    for name, salt in (("plain", ""), ("twice", "b")):
        await world.ask(name, cache_salt=salt)
        await world.end(name)
    assert told == {"plain": 1.0, "twice": 2.0}


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 50)), min_size=2, max_size=30))
@example([("a", 1)] * 30 + [("b", 50)] * 30)
@example([("b", 50)] * 3 + [("a", 1)] * 30 + [("b", 1)])
def test_no_tenant_gets_more_than_a_request_of_each_ahead(wanted: list[tuple[str, int]]) -> None:
    gate = EngineGate(1, 64, 30.0, Ticking(), adaptive=False)
    order = asyncio.run(entered(gate, [(tenant, float(tokens)) for tenant, tokens in wanted]))
    sizes = {name: [tokens for tenant, tokens in wanted if tenant == name] for name in "ab"}
    had = dict.fromkeys("ab", 0)
    seen = dict.fromkeys("ab", 0)
    for tenant in order:
        if all(seen[name] < len(sizes[name]) for name in "ab"):
            assert abs(had["a"] - had["b"]) <= 2 * (max(sizes["a"]) + max(sizes["b"]))
        had[tenant] += sizes[tenant][seen[tenant]]
        seen[tenant] += 1


async def test_one_tenant_is_let_in_in_order_of_arrival() -> None:
    world = World(start=1)
    for number, tokens in enumerate((100, 1, 50)):
        await world.ask(str(number), cache_salt="a", prompt_ids=tuple(range(tokens)))
    for number in range(3):
        assert world.engine.running == [str(number)]
        await world.end(str(number))


async def test_a_tenant_is_not_refused_for_what_another_has_waiting() -> None:
    world = World(start=1, queue=2.0)
    for number in range(14):
        await world.ask(f"w{number}", cache_salt="a")
    for number in range(12):  # one comes out in ten seconds: whoever had to wait for one would be refused
        world.clock.now += 10.0
        await world.end(f"w{number}")
    await world.ask("other", cache_salt="b")
    assert set(world.engine.running) == {"w12", "other"}, "a place beyond the limit is for who has none"
    for name in ("w12", "other", "w13"):
        await world.end(name)


class FullGate:
    """A gate with one place that requests of two tenants, each of which has another request inside, wait for."""

    def __init__(self, gate: EngineGate) -> None:
        self.gate = gate
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def fill(self) -> None:
        for tenant in ("a", "b", "c", "beyond"):
            await self.gate.enter(0, tenant)
        self.gate.leave("beyond")

    async def ask(self, name: str, tokens: float) -> asyncio.Task[None]:
        async def enter() -> None:
            await self.gate.enter(1, name[0], tokens)
            self.order.append(name)

        task = asyncio.create_task(enter())
        self.tasks.append(task)
        await settle()
        return task

    async def drain(self) -> list[str]:
        """Who came in, in this order; each leaves at once."""
        self.gate.leave("c")
        await settle()
        left = 0
        while left < len(self.order):
            self.gate.leave(self.order[left][0])
            left += 1
            await settle()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return self.order


async def test_requests_that_go_away_while_they_wait_cost_their_tenant_nothing() -> None:
    full = FullGate(EngineGate(3, 64, 30.0, Ticking(), adaptive=False))
    await full.fill()
    gone = [await full.ask("a", 100.0) for _ in range(64)]
    await full.ask("a0", 100.0)
    for number in range(4):
        await full.ask(f"b{number}", 100.0)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    await full.ask("a1", 100.0)
    assert await full.drain() == ["a0", "b0", "b1", "a1", "b2", "b3"]


async def test_what_was_had_before_the_gate_was_empty_is_not_made_up_for() -> None:
    gate = EngineGate(3, 64, 30.0, Ticking(), adaptive=False)
    await entered(gate, [("a", 1_000.0)] * 10)
    full = FullGate(gate)
    await full.fill()
    for name in ("a0", "b0", "b1", "b2", "a1"):
        await full.ask(name, 10.0)
    assert await full.drain() == ["a0", "b0", "b1", "a1", "b2"]


class Starts(Held):
    """One that has to be started: it says so until it is up."""

    def __init__(self) -> None:
        super().__init__()
        self.up = asyncio.Event()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        while not self.up.is_set():
            yield Delta(request.id, "", starting=1.0)
            await asyncio.sleep(0.01)
        async with aclosing(super().generate(request)) as events:
            async for event in events:
                yield event


async def test_nobody_is_refused_for_a_start_nor_is_it_taken_for_the_engines_rate() -> None:
    world = World(start=1)
    world.engine = Starts()
    world.gate = EngineGate(1, 64, 0.05, asyncio.get_running_loop().time, adaptive=False)
    world.gated = GatedEngine(world.engine, world.gate, world.clock, tells_queue=True)
    seconds: list[float] = []
    world.gate.measure = lambda took, queued: seconds.append(took)  # type: ignore[method-assign]
    await world.ask("a")
    waiting = await world.ask("b")
    await asyncio.sleep(0.2)
    assert not waiting.done(), "it waited longer than the queue's bound, because the engine starts"
    world.clock.now = 5.0
    await asyncio.sleep(0.03)
    world.engine.up.set()
    await asyncio.sleep(0.03)
    for name in ("a", "b"):
        world.engine.ends.setdefault(name, asyncio.Event()).set()
    async with asyncio.timeout(5):
        await asyncio.gather(*world.tasks.values())
    assert seconds == [0.0, 0.0]


async def test_the_way_of_an_answer_is_what_the_engine_knows_nothing_of_without_its_reader_s_time() -> None:
    world = World()
    async with aclosing(world.gated.generate(asked("slow"))) as events:
        await anext(events)
        world.clock.now += 7.0  # Its reader takes its time.
        world.engine.ends["slow"].set()
        await anext(events)
    assert (world.gate.status.waited, world.gate.status.on_the_way) == (0.0, 0.0)
    await world.ask("late")
    world.clock.now += 3.0
    await world.end("late")
    assert (world.gate.status.waited, world.gate.status.on_the_way) == (3.0, 3.0)
