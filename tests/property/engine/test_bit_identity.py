"""A request's tokens and log-probabilities are bit-identical whatever else the engine runs.

Equality of log-probabilities as floats means equality of the chosen tokens' logits and of the whole distribution's
normalizer, at every step.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from antiphon.engine import weights
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import CallInterruptedError, Layout
from antiphon.engine.scheduling.state import StepBudget
from antiphon.engine.weights import Weights

pytestmark = [pytest.mark.model]

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"outlook": {"enum": ["on_time", "delayed"]}, "notice": {"type": "string", "maxLength": 80}},
        "required": ["outlook", "notice"],
        "additionalProperties": False,
    }
)
SYSTEM = (
    "<|im_start|>system\nYou are the flight desk of a large airport. You answer passengers in one or two sentences, "
    "state only what you know, and stay polite whatever happens.<|im_end|>\n<|im_start|>user\n"
)
PROBES = (
    GenerationRequest(
        "probe", "base", f"{SYSTEM}Is the 17:05 to Boston late?<|im_end|>\n<|im_start|>assistant\n", 24, logprobs=2
    ),
    GenerationRequest(
        "probe", "base", f"{SYSTEM}Delay 27 min.<|im_end|>\n<|im_start|>assistant\n", 40, json_schema=SCHEMA, logprobs=1
    ),
    GenerationRequest("probe", "base", "Long ago in a small town by the sea", 24, temperature=1.1, seed=11, logprobs=1),
    GenerationRequest("probe", "base", f"{SYSTEM}Is it late?<|im_end|>\n", 8, logprobs=1, prompt_logprobs=3),
)

Outcome = tuple[object, ...]


async def outcome(engine: LocalEngine, request: GenerationRequest) -> Outcome:
    """Everything that must repeat: text, tokens, log-probabilities, in order."""
    tokens: list[object] = []
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            tokens.extend(event.prompt)
            tokens.extend(event.tokens)
        elif isinstance(event, GenerationResult):
            return event.text, event.token_ids, event.reason, tuple(tokens)
    raise AssertionError("no end")


class Engines:
    def __init__(self, sharing: LocalEngine, plain: LocalEngine, expected: list[Outcome]) -> None:
        self.sharing = sharing
        self.plain = plain
        self.expected = expected


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(few_layers: Weights) -> AsyncIterator[Engines]:
    async def start(*, slots: int, share_prefixes: bool, threads: int) -> LocalEngine:
        runtime = LlamaCpp("base", few_layers, Layout(slots=slots, context_tokens=512), threads=threads)
        return await LocalEngine({"base": runtime}, share_prefixes=share_prefixes, budget=StepBudget(0.05, 0.1)).start()

    alone = await start(slots=1, share_prefixes=False, threads=1)
    expected = [await outcome(alone, probe) for probe in PROBES]
    await alone.close()
    sharing = await start(slots=3, share_prefixes=True, threads=2)
    plain = await start(slots=6, share_prefixes=False, threads=2)
    yield Engines(sharing, plain, expected)
    await sharing.close()
    await plain.close()


neighbor = st.tuples(
    st.integers(0, 2),  # what kind of prompt
    st.integers(1, 60),  # words
    st.integers(1, 25),  # tokens
    st.sampled_from(["online", "batch"]),
    st.integers(0, 6),  # after how many of the probe's deltas it arrives
)


@pytest.mark.asyncio(loop_scope="module")
# An example takes seconds, so a failing one is reported as found, without shrinking.
@settings(
    max_examples=4,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    probe=st.sampled_from(range(len(PROBES))),
    priority=st.sampled_from(["online", "batch"]),
    sharing=st.booleans(),
    crowd=st.lists(neighbor, min_size=2, max_size=6),
)
async def test_a_request_in_a_crowd_repeats_itself_alone(
    engines: Engines, probe: int, priority: str, sharing: bool, crowd: list[tuple[int, int, int, str, int]]
) -> None:
    engine = engines.sharing if sharing else engines.plain

    async def join(number: int, kind: int, words: int, tokens: int, neighbor_priority: str) -> None:
        prompt = (SYSTEM if kind else "") + f"{number} " + "delay wind carrier route " * (words // 4 + 1)
        request = GenerationRequest(
            f"n{number}",
            "base",
            prompt,
            tokens + (30 if kind == 2 else 0),
            temperature=0.5,
            seed=number,
            json_schema=SCHEMA if kind == 2 else None,
            priority=neighbor_priority,  # type: ignore[arg-type]
        )
        await outcome(engine, request)

    request = PROBES[probe]
    changed = GenerationRequest(
        **{field: getattr(request, field) for field in request.__struct_fields__} | {"priority": priority}
    )
    async with asyncio.TaskGroup() as group:
        tokens: list[object] = []
        arrived = 0
        late = sorted(enumerate(crowd), key=lambda item: item[1][4])

        def arrivals(deltas: int) -> None:
            while late and late[0][1][4] <= deltas:
                number, (kind, words, count, neighbor_priority, _) = late.pop(0)
                group.create_task(join(number, kind, words, count, neighbor_priority))

        arrivals(0)
        async for event in engine.generate(changed):
            if isinstance(event, Delta):
                tokens.extend(event.prompt)
                tokens.extend(event.tokens)
                arrived += 1
                arrivals(arrived)
            elif isinstance(event, GenerationResult):
                found = (event.text, event.token_ids, event.reason, tuple(tokens))
    assert found == engines.expected[probe]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_prompt_is_measured_the_same_in_a_crowd_and_its_text_is_that_without(engines: Engines) -> None:
    scoring = PROBES[3]
    plain = msgspec.structs.replace(scoring, prompt_logprobs=None)
    for engine in (engines.sharing, engines.plain):
        found = await asyncio.gather(*(outcome(engine, probe) for probe in (*PROBES, plain, scoring)))
        assert found[3] == found[-1] == engines.expected[3]
        measured = found[-1][3]
        assert isinstance(measured, tuple)
        count = len(found[-2][1])  # type: ignore[arg-type]
        assert found[-2] == (*found[-1][:3], measured[-count:])


@pytest.mark.asyncio(loop_scope="module")
async def test_a_batch_request_that_is_pushed_out_and_restored_repeats_itself(engines: Engines) -> None:
    engine = engines.sharing
    restored = 0
    runtime = engine._step_loop.executors[0].runtime
    restore_state = runtime.restore_state

    def counting(slot: int, state: object) -> None:
        nonlocal restored
        restored += 1
        restore_state(slot, state)  # type: ignore[arg-type]

    runtime.restore_state = counting  # type: ignore[method-assign]
    try:
        request = PROBES[2]
        fields = {field: getattr(request, field) for field in request.__struct_fields__}
        tokens: list[object] = []
        pushing: list[asyncio.Task[Outcome]] = []
        async for event in engine.generate(GenerationRequest(**fields | {"priority": "batch"})):
            if isinstance(event, Delta):
                tokens.extend(event.tokens)
                if len(tokens) in (3, 12):
                    pushing += [
                        asyncio.create_task(outcome(engine, GenerationRequest(f"p{n}", "base", f"Push {n} away", 6)))
                        for n in range(len(tokens), len(tokens) + 3)
                    ]
            elif isinstance(event, GenerationResult):
                found = (event.text, event.token_ids, event.reason, tuple(tokens))
        await asyncio.gather(*pushing)
    finally:
        del runtime.restore_state  # type: ignore[method-assign]
    assert restored >= 1
    assert found == engines.expected[2]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_reused_beginning_gives_what_computing_it_gives(engines: Engines) -> None:
    cached = []
    for _ in range(3):
        last = None
        tokens: list[object] = []
        async for event in engines.sharing.generate(PROBES[0]):
            if isinstance(event, Delta):
                tokens.extend(event.tokens)
            last = event
        assert isinstance(last, GenerationResult)
        cached.append(last.usage.cached_prompt_tokens)
        assert (last.text, last.token_ids, last.reason, tuple(tokens)) == engines.expected[0]
    assert cached[-1] >= 32


def test_what_was_interrupted_is_computed_again_to_the_same_bits(model_path: Path) -> None:
    """A call that is given up in the middle leaves every sequence as it was, in both kinds of call."""
    slots, half = 4, 24
    runtime = LlamaCpp("base", weights.resolve(str(model_path)), Layout(slots=slots, context_tokens=256), threads=2)
    try:
        tokens = [int(token) for token in np.random.default_rng(5).integers(100, 40_000, 2 * half + slots)]
        positions, following = [2 * half] * slots, tokens[2 * half :]

        def fed(slot: int) -> np.ndarray:
            runtime.feed(slot, 0, tokens[:half], False)
            logits = runtime.feed(slot, half, tokens[half : 2 * half], True)
            assert logits is not None
            return logits.copy()

        expected = [fed(slot) for slot in range(slots)]
        stepped = [logits.copy() for logits in runtime.step(range(slots), positions, following)]
        for slot in range(slots):
            runtime.drop(slot)
        for slot in range(slots):
            runtime.feed(slot, 0, tokens[:half], False)
            if slot % 2:
                interrupted(runtime, lambda slot=slot: runtime.feed(slot, half, tokens[half : 2 * half], True))
            logits = runtime.feed(slot, half, tokens[half : 2 * half], True)
            assert logits is not None
            assert np.array_equal(logits, expected[slot])
        for _ in range(3):
            interrupted(runtime, lambda: runtime.step(range(slots), positions, following))
        again = runtime.step(range(slots), positions, following)
        assert all(np.array_equal(one, other) for one, other in zip(again, stepped, strict=True))
    finally:
        runtime.close()


def interrupted(runtime: LlamaCpp, call: Callable[[], object]) -> None:
    """Interrupt the call two milliseconds after it was begun, a small part of what it takes."""
    begun = threading.Event()

    def interrupt() -> None:
        begun.wait()
        time.sleep(0.002)
        runtime.interrupt()

    def calling() -> None:
        begun.set()
        call()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(CallInterruptedError):
            calling()
    finally:
        thread.join()
        runtime.rearm()
