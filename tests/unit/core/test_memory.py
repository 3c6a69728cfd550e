"""Memory given back: once for many, a moment later, and only after something large."""

import asyncio

from antiphon.core.memory import LARGE_BYTES, MemoryRelease, trim


async def test_memory_is_given_back_once_after_something_large() -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()
    count: list[int] = []

    def release() -> None:
        count.append(1)
        loop.call_soon_threadsafe(released.set)

    memory = MemoryRelease(release, delay=0.0)
    memory.used(LARGE_BYTES - 1)
    for _ in range(3):
        memory.used(LARGE_BYTES)
    await asyncio.wait_for(released.wait(), 5)
    assert len(count) == 1


def test_the_c_library_is_asked_without_harm() -> None:
    trim()
