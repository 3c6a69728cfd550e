"""A request that goes ahead, in an engine whose one slot is taken."""

import asyncio

from antiphon.engine.api.messages import GenerationRequest, GenerationResult
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout


async def order_of_ends(*requests: GenerationRequest) -> list[str]:
    """In which order these end, which arrive one after the other while the first one generates."""
    runtime = SimulatedRuntime("words", Layout(chunk_tokens=32, slots=1, context_tokens=512), call_seconds=0.002)
    engine, ends = await LocalEngine({"words": runtime}).start(), list[str]()
    first = asyncio.Event()

    async def run(request: GenerationRequest) -> None:
        async for event in engine.generate(request):
            first.set()
            if isinstance(event, GenerationResult):
                ends.append(request.id)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for request in requests:
            group.create_task(run(request))
            await first.wait()
            await asyncio.sleep(0)
    await engine.close()
    return ends


def asked(name: str, tokens: int = 10, **fields: object) -> GenerationRequest:
    return GenerationRequest(name, "words", f"{name} asks", tokens, ignore_end=True, **fields)  # type: ignore[arg-type]


async def test_it_goes_before_those_that_wait_and_those_before_batch() -> None:
    ends = await order_of_ends(
        asked("running", 120), asked("flex", priority="batch"), asked("one"), asked("two"), asked("ahead", ahead=True)
    )
    assert ends == ["running", "ahead", "one", "two", "flex"]


async def test_of_batch_work_nobody_goes_ahead_of_online() -> None:
    ends = await order_of_ends(asked("running", 120), asked("batch", priority="batch", ahead=True), asked("one"))
    assert ends == ["running", "one", "batch"]
