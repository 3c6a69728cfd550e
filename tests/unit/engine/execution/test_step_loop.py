"""The loop, executor and local engine over a simulated runtime whose calls wait until the test lets them run."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from antiphon.core.errors import EngineError, OverloadedError, PromptTooLongError, UnavailableError
from antiphon.core.memory import LARGE_BYTES, MemoryRelease
from antiphon.engine.api.messages import (
    Delta,
    GenerationRequest,
    GenerationResult,
    Priority,
    TextEmbeddingRequest,
    TokenizationRequest,
)
from antiphon.engine.backends.simulated.encoder import SimulatedEncoder
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.model_executor import Emission, ModelExecutor
from antiphon.engine.execution.prefix_cache import hash_prefixes
from antiphon.engine.execution.runtime import CallInterruptedError, Layout, Logits
from antiphon.engine.execution.sequence import Sequence as Generation
from antiphon.engine.execution.step_loop import StepLoop
from antiphon.engine.execution.swap_space import SwapSpace
from antiphon.engine.execution.tokenization import MOST_WAITING
from antiphon.engine.scheduling.state import StepBudget


class Gated(SimulatedRuntime):
    """Records each call; while closed, a call waits for a permit."""

    def __init__(self, layout: Layout) -> None:
        super().__init__("words", layout, words=40)
        self.calls: list[tuple[str, list[int], int]] = []
        self.restored = 0
        self.entered: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()
        self.permits = threading.Semaphore(0)
        self.fail_next = False

    def _pass(self, kind: str, slots: list[int], tokens: int) -> None:
        self.calls.append((kind, slots, tokens))
        if not self.gate.is_set():
            self.entered.put(None)
            self.permits.acquire()
        if self.fail_next:
            self.fail_next = False
            raise EngineError("broken on purpose")

    def feed(self, slot: int, position: int, tokens: Sequence[int], want_logits: bool) -> Logits | None:
        self._pass("feed", [slot], len(tokens))
        return super().feed(slot, position, tokens, want_logits)

    def step(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> list[Logits]:
        self._pass("step", list(slots), len(tokens))
        return super().step(slots, positions, tokens)

    def restore_state(self, slot: int, state: object) -> None:
        self.restored += 1
        super().restore_state(slot, state)  # type: ignore[arg-type]

    async def in_a_call(self) -> None:
        """Wait until the loop's thread is inside a call (the gate being closed)."""
        await asyncio.to_thread(self.entered.get)

    def open(self) -> None:
        self.gate.set()
        self.permits.release()


def asking(
    name: str, *, priority: Priority = "online", max_tokens: int = 20, prompt: str | None = None, cache_salt: str = ""
) -> GenerationRequest:
    return GenerationRequest(
        name, "words", prompt or f"About {name}.\n", max_tokens, priority=priority, cache_salt=cache_salt
    )


async def collect(engine: LocalEngine, request: GenerationRequest) -> GenerationResult:
    last = None
    async for event in engine.generate(request):
        last = event
    assert isinstance(last, GenerationResult)
    return last


@contextlib.asynccontextmanager
async def running(slots: int = 2, **options: object) -> AsyncIterator[tuple[LocalEngine, Gated]]:
    runtime = Gated(Layout(chunk_tokens=8, slots=slots, context_tokens=1024))
    engine = await LocalEngine({"words": runtime}, **options).start()  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(20):
            yield engine, runtime
    finally:
        runtime.open()
        await engine.close()


async def until(engine: LocalEngine, **load: int) -> None:
    async with asyncio.timeout(5):
        while any(getattr(engine.load(), field) != value for field, value in load.items()):
            await asyncio.sleep(0)


async def test_a_cancelled_request_frees_its_slot_before_the_next_step() -> None:
    async with running(slots=1) as (engine, runtime):
        runtime.gate.clear()
        prefilling = asyncio.create_task(collect(engine, asking("first", prompt="x" * 400)))
        await runtime.in_a_call()  # A long, silent prefill.
        waiting = asyncio.create_task(collect(engine, asking("second")))
        await until(engine, running_online=1)
        prefilling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await prefilling
        runtime.open()
        assert (await waiting).reason == "length"
        # Of the first prompt's 400 tokens only those of the step in flight were computed.
        prompts = sum(tokens for kind, _, tokens in runtime.calls if kind == "feed")
        assert prompts <= StepBudget().online_prefill_tokens + len("About second.\n")


async def test_a_turn_that_does_not_end_is_told_and_waiting_is_none() -> None:
    async with running() as (engine, runtime):
        runtime.gate.clear()
        asked = asyncio.create_task(collect(engine, asking("first")))
        await runtime.in_a_call()
        async with asyncio.timeout(5):
            while engine.turn_seconds < 0.05:
                await asyncio.sleep(0)
        runtime.open()
        await asked
        async with asyncio.timeout(5):
            while engine.turn_seconds > 0:
                await asyncio.sleep(0)


@pytest.mark.parametrize("memory", [1 << 30, 0])
async def test_online_takes_a_batch_sequences_slot_and_gives_it_back_unchanged(memory: int, tmp_path: Path) -> None:
    async with running(slots=1) as (engine, _):
        alone = await collect(engine, asking("long", priority="batch", max_tokens=60))
    async with running(slots=1, swap_space=SwapSpace(memory, tmp_path)) as (engine, runtime):
        runtime.gate.clear()
        batch = asyncio.create_task(collect(engine, asking("long", priority="batch", max_tokens=60)))
        for _ in range(6):
            await runtime.in_a_call()
            runtime.permits.release()
        await runtime.in_a_call()
        online = asyncio.create_task(collect(engine, asking("urgent", max_tokens=5)))
        while engine._step_loop._inbox.empty():
            await asyncio.sleep(0)
        ended: list[int] = []
        told = engine._dispatch

        def watched(emissions: list[Emission]) -> None:
            # Of two that end while this loop is busy elsewhere, only the engine knows which ended first.
            ended.extend(ticket for ticket, event in emissions if isinstance(event, GenerationResult))
            told(emissions)

        engine._dispatch = watched  # type: ignore[method-assign]
        runtime.open()
        assert (await online).reason == "length"
        moved = await batch
        batch_ticket, online_ticket = 1, 2
        assert ended == [online_ticket, batch_ticket]
        assert runtime.restored >= 1
        assert (moved.text, moved.token_ids) == (alone.text, alone.token_ids)


async def test_decoding_sequences_sit_in_neighboring_slots() -> None:
    async with running(slots=6) as (engine, runtime):
        lengths = [5, 60, 9, 60, 30, 60, 12, 50, 7]
        await asyncio.gather(*(collect(engine, asking(f"r{n}", max_tokens=length)) for n, length in enumerate(lengths)))
        steps = [slots for kind, slots, _ in runtime.calls if kind == "step"]
        assert max(len(slots) for slots in steps) > 2
        assert all(slots == list(range(slots[0], slots[0] + len(slots))) for slots in steps)


async def test_a_failing_step_ends_its_requests_and_nobody_elses() -> None:
    async with running() as (engine, runtime):
        runtime.fail_next = True
        with pytest.raises(EngineError, match="on purpose"):
            await collect(engine, asking("first"))
        assert (await collect(engine, asking("second"))).reason == "length"
        await until(engine, running_online=0)


async def test_too_many_waiting_requests_are_refused() -> None:
    async with running(slots=1, most_waiting={"online": 1}) as (engine, runtime):
        runtime.gate.clear()
        tasks = [asyncio.create_task(collect(engine, asking(f"r{n}"))) for n in range(2)]
        await runtime.in_a_call()
        await until(engine, running_online=1)
        while len(engine._sinks) < 2:
            await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await collect(engine, asking("one too many"))
        other_priority = asyncio.create_task(collect(engine, asking("patient", priority="batch")))
        runtime.open()
        assert [task.reason for task in await asyncio.gather(*tasks, other_priority)] == ["length"] * 3


async def test_shared_beginnings_are_computed_once() -> None:
    prompt = "The same long beginning of many prompts, word for word, again and again. "
    async with running() as (engine, _):
        alone = [await collect(engine, asking(f"r{n}", prompt=f"{prompt}{n}\n")) for n in range(4)]
        assert [finished.usage.cached_prompt_tokens for finished in alone][:2] == [0, 0]
        assert alone[2].usage.cached_prompt_tokens == alone[3].usage.cached_prompt_tokens > 16
        assert engine.load().reused_prefix_tokens == 2 * alone[2].usage.cached_prompt_tokens
    async with running(share_prefixes=False) as (engine, _):
        again = [await collect(engine, asking(f"r{n}", prompt=f"{prompt}{n}\n")) for n in range(4)]
        assert all(finished.usage.cached_prompt_tokens == 0 for finished in again)
        assert [finished.text for finished in again] == [finished.text for finished in alone]


async def test_tenants_share_no_beginnings() -> None:
    prompt = "The same long beginning of many prompts, word for word, again and again. "
    async with running() as (engine, _):
        for number in range(3):
            await collect(engine, asking(f"north{number}", prompt=f"{prompt}{number}\n", cache_salt="north"))
        other = await collect(engine, asking("south", prompt=f"{prompt}3\n", cache_salt="south"))
        own = await collect(engine, asking("north", prompt=f"{prompt}4\n", cache_salt="north"))
    assert other.usage.cached_prompt_tokens == 0
    assert own.usage.cached_prompt_tokens > 16


async def test_closing_ends_what_is_in_flight_and_refuses_the_rest() -> None:
    async with running() as (engine, runtime):
        runtime.gate.clear()
        task = asyncio.create_task(collect(engine, asking("first")))
        await runtime.in_a_call()
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        runtime.open()
        await closing
        assert (await task).reason == "cancelled"
        with pytest.raises(UnavailableError):
            await collect(engine, asking("late"))


async def test_a_grammar_without_any_choice_needs_no_step() -> None:
    async with running() as (engine, runtime):
        request = GenerationRequest("r", "words", "Hello.\n", 40, json_schema='{"const": "yes"}')
        finished = await collect(engine, request)
        assert finished.text == '"yes"'
        assert finished.usage.forced_tokens == finished.usage.completion_tokens
        assert runtime.calls == []


async def test_usage_counts_what_the_engine_did() -> None:
    async with running() as (engine, runtime):
        deltas = [event async for event in engine.generate(asking("r", max_tokens=10)) if isinstance(event, Delta)]
        assert len(deltas) == 10
        load = engine.load()
        assert load.generated_tokens_online == 10
        assert load.generated_tokens_batch == 0
        assert load.prefilled_tokens == sum(tokens for kind, _, tokens in runtime.calls if kind == "feed")


async def test_batch_waits_while_a_step_may_be_no_longer_than_onlines() -> None:
    async with running(slots=2, budget=StepBudget(arrival_seconds=1e-9)) as (engine, runtime):
        batch = asyncio.create_task(collect(engine, asking("batch", priority="batch", max_tokens=30)))
        online = await collect(engine, asking("online", max_tokens=30))
        assert online.reason == "length"
        # No step decodes both: a batch token would always make it longer.
        assert max(len(slots) for kind, slots, _ in runtime.calls if kind == "step") == 1
        assert (await batch).reason == "length"


class Interruptible(SimulatedRuntime):
    """A number of calls take ten seconds of its clock and no time; the next takes an hour unless it is interrupted."""

    def __init__(self, free: int) -> None:
        super().__init__("words", Layout(chunk_tokens=8, slots=2, context_tokens=1024), words=40)
        self.free = free
        self.entered = threading.Event()
        self.given_up = 0
        self.clock = 0.0

    def _wait(self, seconds: float) -> None:
        if self.free:
            self.free -= 1
            self.clock += 10.0
            return
        self.entered.set()
        try:
            super()._wait(3600.0)
        except CallInterruptedError:
            self.given_up += 1
            self.free = 10_000
            raise


async def test_an_arrival_interrupts_what_batch_computes_alone_and_changes_nothing_of_it() -> None:
    async with running(slots=2) as (engine, _):
        alone = await collect(engine, asking("long", priority="batch", max_tokens=40))
    runtime = Interruptible(free=20)
    engine = await LocalEngine({"words": runtime}, monotonic=lambda: runtime.clock).start()
    try:
        async with asyncio.timeout(20):
            batch = asyncio.create_task(collect(engine, asking("long", priority="batch", max_tokens=40)))
            await asyncio.to_thread(runtime.entered.wait)
            online = await collect(engine, asking("urgent", max_tokens=5))
            assert online.reason == "length"
            assert runtime.given_up == 1
            finished = await batch
    finally:
        runtime.interrupt()
        await engine.close()
    assert (finished.text, finished.token_ids) == (alone.text, alone.token_ids)


async def test_what_online_computes_is_not_interrupted() -> None:
    async with running(slots=2) as (engine, runtime):
        runtime.gate.clear()
        first = asyncio.create_task(collect(engine, asking("first", max_tokens=5)))
        await runtime.in_a_call()
        second = asyncio.create_task(collect(engine, asking("second", max_tokens=5)))
        await until(engine, waiting_online=0)
        runtime.open()
        assert (await first).reason == (await second).reason == "length"
        computed = sum(tokens for kind, _, tokens in runtime.calls if kind == "feed")
        assert computed == len("About first.\n") + len("About second.\n")


class Timed(SimulatedRuntime):
    """Each call takes as long, of a clock that the test owns."""

    def __init__(self, clock: list[float], seconds: float = 0.01) -> None:
        super().__init__("words", Layout(chunk_tokens=8, slots=4, context_tokens=1024), words=2000)
        self._clock = clock
        self._seconds = seconds

    def feed(self, slot: int, position: int, tokens: Sequence[int], want_logits: bool) -> Logits | None:
        self._clock[0] += self._seconds
        return super().feed(slot, position, tokens, want_logits)

    def step(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> list[Logits]:
        self._clock[0] += self._seconds
        return super().step(slots, positions, tokens)


def generation(executor: ModelExecutor, ticket: int, request: GenerationRequest, arrived: float) -> Generation:
    prompt = executor.runtime.tokenize(request.prompt)
    return Generation(
        ticket=ticket,
        request=request,
        prompt=prompt,
        forced=[],
        constraint=None,
        vocabulary=executor.runtime.vocabulary,
        prefix_hashes=hash_prefixes(prompt, 8),
        arrived=arrived,
    )


def test_what_another_model_serves_online_is_no_harm_of_batchs() -> None:
    clock = [1.0]
    executors = [ModelExecutor(Timed(clock), lambda: clock[0]) for _ in range(2)]
    loop = StepLoop(executors, StepBudget(), lambda emissions: None)
    for ticket in range(1, 41):
        executor = executors[ticket % 2]
        loop.submit(executor, generation(executor, ticket, asking(str(ticket), max_tokens=12), clock[0]))
    loop.stop()
    before = executors[0].pacer.factors.slowdown
    loop.run()
    assert all(executor.pacer.factors.slowdown > before for executor in executors)


@pytest.mark.parametrize(("seconds", "first"), [(0.01, "online"), (0.2, "batch")])
def test_batch_of_another_model_waits_for_a_gap_unless_none_comes_for_long(seconds: float, first: str) -> None:
    """An answer of 500 tokens takes 5 or 100 s."""
    clock, ends = [1.0], list[int]()
    executors = [ModelExecutor(Timed(clock, seconds), lambda: clock[0]) for _ in range(2)]
    loop = StepLoop(
        executors,
        StepBudget(),
        lambda emissions: ends.extend(ticket for ticket, event in emissions if isinstance(event, GenerationResult)),
        monotonic=lambda: clock[0],
    )
    online = asking("online", max_tokens=500)
    batch = asking("batch", max_tokens=10, priority="batch")
    for ticket, (executor, request) in enumerate(zip(executors, (online, batch), strict=True), start=1):
        loop.submit(executor, generation(executor, ticket, msgspec.structs.replace(request, ignore_end=True), clock[0]))
    loop.stop()
    loop.run()
    assert ends == ([1, 2] if first == "online" else [2, 1])


async def test_calls_that_measure_a_prompt_are_learnt_by_themselves() -> None:
    async with running() as (engine, _):
        executor = engine._step_loop.executors[0]
        before = executor.calls.latency_model
        await collect(engine, msgspec.structs.replace(asking("a", max_tokens=0), prompt_logprobs=1))
        measured = executor.calls.latency_model
        assert (measured.feeding, measured.scoring.seen > 0) == (before.feeding, True)
        await collect(engine, asking("a", max_tokens=1))
        assert executor.calls.latency_model.feeding.seen > 0
        assert executor.calls.latency_model.scoring == measured.scoring


async def test_texts_are_tokenized_beside_the_step_loop_one_at_a_time_and_not_without_end() -> None:
    class Slow(Gated):
        inside, most = 0, 0

        def tokenize(self, text: str) -> list[int]:
            if not text.startswith("read"):
                return super().tokenize(text)
            Slow.inside += 1
            Slow.most = max(Slow.most, Slow.inside)
            held.wait(10)
            Slow.inside -= 1
            return [1]

    held = threading.Event()
    engine = await LocalEngine({"words": Slow(Layout(chunk_tokens=8, slots=2, context_tokens=1024))}).start()
    try:
        questions = [
            asyncio.create_task(engine.tokenize(TokenizationRequest(f"t{number}", "words", "read this")))
            for number in range(1 + MOST_WAITING)
        ]
        async with asyncio.timeout(10):
            while not Slow.inside:
                await asyncio.sleep(0)
            with pytest.raises(OverloadedError):
                await engine.tokenize(TokenizationRequest("one more", "words", "read this"))
            # Who generates does not wait for them.
            assert (await collect(engine, asking("a"))).reason == "length"
        held.set()
        assert len(await asyncio.gather(*questions)) == 1 + MOST_WAITING
        assert Slow.most == 1
    finally:
        held.set()
        await engine.close()


async def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenized() -> None:
    class Counting(Gated):
        tokenized = 0

        def tokenize(self, text: str) -> list[int]:
            Counting.tokenized += 1
            return super().tokenize(text)

    runtime = Counting(Layout(chunk_tokens=8, slots=2, context_tokens=1024))
    engine = await LocalEngine({"words": runtime}).start()
    try:
        for request in (
            asking("a", prompt="x" * (runtime.vocabulary.longest * 1024 + 1)),
            msgspec.structs.replace(asking("b"), prompt="", prompt_ids=(10**9,) * 2_000),
        ):
            with pytest.raises(PromptTooLongError):
                await collect(engine, request)
        assert Counting.tokenized == 0
    finally:
        await engine.close()


async def test_memory_of_a_large_request_is_given_back_when_it_has_ended() -> None:
    events: list[object] = []
    told: list[int] = []

    class Recording(MemoryRelease):
        def used(self, size: int) -> None:
            assert size >= LARGE_BYTES
            told.append(len(events))

    async with running(memory=Recording()) as (engine, runtime):
        runtime.open()
        request = msgspec.structs.replace(asking("r"), logprobs=1, prompt_logprobs=1)
        await engine.submit(request, events.append)
        await engine.drain()
    assert isinstance(events[-1], GenerationResult)
    assert told == [len(events) - 1], "in the moment before its end is told"


async def test_texts_to_embed_are_prepared_apart_from_prompts() -> None:
    held = threading.Event()

    class Slow(SimulatedEncoder):
        def tokenize(self, text: str) -> list[int] | None:
            assert held.wait(10)
            return super().tokenize(text)

    encoders = {"vectors": Slow("vectors", tokens=8, dimensions=16)}
    async with running(encoders=encoders) as (engine, runtime):
        runtime.open()
        embedding = [
            asyncio.create_task(engine.embed(TextEmbeddingRequest(f"e{n}", "vectors", ("tea",)))) for n in range(40)
        ]
        try:
            async with asyncio.timeout(5):
                assert (await collect(engine, asking("a"))).reason == "length"
        finally:
            held.set()
        assert len(await asyncio.gather(*embedding)) == 40


async def test_held_batch_work_computes_nothing_while_online_requests_go_on() -> None:
    async with running(slots=2) as (engine, runtime):
        engine.hold_batch(60)
        batch = asyncio.create_task(collect(engine, asking("report", priority="batch")))
        await until(engine, running_batch=1)
        answer = await collect(engine, asking("user", max_tokens=4))
        assert answer.usage.completion_tokens == 4
        before = len(runtime.calls)
        assert engine.load().batch_held_seconds > 50
        await asyncio.sleep(0.05)
        assert (len(runtime.calls), batch.done()) == (before, False)
        assert engine.turn_seconds == 0.0  # It waits, and does not look again and again.
        engine.hold_batch(0)
        assert (await batch).usage.completion_tokens == 20
        assert engine.load().batch_held_seconds == 0


async def test_a_hold_ends_by_itself_and_keeps_what_was_computed() -> None:
    async with running(slots=1) as (engine, runtime):
        runtime.gate.clear()
        batch = asyncio.create_task(collect(engine, asking("report", priority="batch")))
        await runtime.in_a_call()
        engine.hold_batch(0.2)
        runtime.open()
        result = await batch
        assert result.usage.completion_tokens == 20
        fed = sum(tokens for kind, _, tokens in runtime.calls if kind == "feed")
        assert fed == result.usage.prompt_tokens  # Nothing was computed twice.


async def test_a_held_engine_drains_what_it_has_when_it_closes() -> None:
    async with running(slots=1) as (engine, _):
        engine.hold_batch(60)
        batch = asyncio.create_task(collect(engine, asking("report", priority="batch")))
        await until(engine, running_batch=1)
    with contextlib.suppress(EngineError):
        assert (await batch).reason == "cancelled"
