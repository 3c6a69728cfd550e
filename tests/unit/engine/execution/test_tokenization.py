"""Questions about tokens: which are too long to be answered, and whose turn it is."""

import asyncio
import threading

import pytest

from antiphon.core.errors import OverloadedError, TooLargeError
from antiphon.engine.api.messages import TokenizationRequest
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.tokenization import (
    MOST_TEXT_BYTES,
    MOST_TOKENS,
    MOST_WAITING,
    TokenizationQueue,
    require_size,
)


@pytest.mark.parametrize(
    ("question", "where"),
    [
        (TokenizationRequest("t", "m", "x" * (MOST_TEXT_BYTES + 1)), "prompt"),
        (TokenizationRequest("t", "m", "ç" * (MOST_TEXT_BYTES // 2 + 1)), "prompt"),
        (TokenizationRequest("t", "m", tokens=(1,) * (MOST_TOKENS + 1)), "tokens"),
    ],
)
def test_what_would_take_too_long_is_refused_with_its_bound(question: TokenizationRequest, where: str) -> None:
    with pytest.raises(TooLargeError) as refused:
        require_size(question)
    assert refused.value.where == where
    assert refused.value.next_step


def test_what_is_just_short_enough_is_read() -> None:
    require_size(TokenizationRequest("t", "m", "ç" * (MOST_TEXT_BYTES // 2)))
    require_size(TokenizationRequest("t", "m", tokens=(1,) * MOST_TOKENS))


class HeldRuntime(SimulatedRuntime):
    """Tokenizes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__("m")
        self.go = threading.Event()

    def tokenize(self, text: str) -> list[int]:
        assert self.go.wait(10)
        return super().tokenize(text)


async def test_a_tenant_with_many_questions_holds_no_other_up() -> None:
    runtime, reader, order = HeldRuntime(), TokenizationQueue(), list[str]()
    try:
        asked = [
            reader.begin(runtime, TokenizationRequest("t", "m", "text", tenant="crowd"))
            for _ in range(MOST_WAITING + 1)
        ]
        with pytest.raises(OverloadedError):
            reader.begin(runtime, TokenizationRequest("t", "m", "text", tenant="crowd"))
        asked.append(reader.begin(runtime, TokenizationRequest("t", "m", "text", tenant="other")))
        for number, answer in enumerate(asked):
            tenant = "other" if number > MOST_WAITING else "crowd"
            answer.add_done_callback(lambda _, tenant=tenant: order.append(tenant))
        runtime.go.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*asked)
    finally:
        runtime.go.set()
        reader.close()
    # The one under way, one more of the crowd's, then the other's.
    assert order.index("other") <= 2
