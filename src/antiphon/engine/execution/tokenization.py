"""Tokenizes texts for callers, and turns tokens back into text."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from antiphon.core.errors import InvalidInputError, OverloadedError, TooLargeError
from antiphon.engine.api.messages import Tokenization, TokenizationRequest
from antiphon.engine.execution.runtime import Runtime

MOST_TEXT_BYTES = 256 * 1024
"""Longest text to be tokenized; more than any prompt here has."""

MOST_TOKENS = 64 * 1024
"""Most tokens to be turned into text."""

MOST_WAITING = 64
"""Requests of one tenant that may wait for their turn."""

_Entry = tuple[Runtime, TokenizationRequest, "asyncio.Future[Tokenization]"]

_NICENESS = 5


def require_size(request: TokenizationRequest) -> None:
    """Refuse a text or a list of tokens that would take too long (``TooLargeError``)."""
    # A character has at most four bytes: most texts need no second look.
    text = request.text or ""
    if len(text) > MOST_TEXT_BYTES or (4 * len(text) > MOST_TEXT_BYTES and len(text.encode()) > MOST_TEXT_BYTES):
        raise TooLargeError(
            f"A text to be tokenized may have {MOST_TEXT_BYTES} bytes; this one has more.",
            where="prompt",
            next_step="Send it in parts, cut where a word ends.",
        )
    if len(request.tokens) > MOST_TOKENS:
        raise TooLargeError(
            f"{MOST_TOKENS} tokens may be sent at once; these are {len(request.tokens)}.",
            where="tokens",
            next_step="Send them in parts.",
        )


class TokenizationQueue:
    """Tokenizes one request after another, tenants in turns. Belongs to an event loop.

    Its thread has a lower priority than the step loop's: requests that generate share the machine with it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "antiphon-tokenizer", initializer=lower_thread_priority)
        self._waiting: dict[str, deque[_Entry]] = {}
        """Requests by tenant, the tenant whose turn is next first."""
        self._busy = False

    def begin(self, runtime: Runtime, request: TokenizationRequest) -> asyncio.Future[Tokenization]:
        """Add a request; the future has its result. Raises ``TooLargeError``, or ``OverloadedError`` when too many of
        this tenant wait."""
        require_size(request)
        waiting = self._waiting.setdefault(request.tenant, deque())
        if len(waiting) >= MOST_WAITING:
            raise OverloadedError(f"{len(waiting)} texts wait to be tokenized.", next_step="Try again in a moment.")
        answer: asyncio.Future[Tokenization] = asyncio.get_running_loop().create_future()
        waiting.append((runtime, request, answer))
        self._next()
        return answer

    def close(self) -> None:
        """Cancel what waits and end the thread."""
        for waiting in self._waiting.values():
            for _, _, answer in waiting:
                answer.cancel()
        self._waiting.clear()
        self._thread.shutdown()

    def _next(self) -> None:
        if self._busy or not self._waiting:
            return
        tenant, waiting = next(iter(self._waiting.items()))
        runtime, request, answer = waiting.popleft()
        del self._waiting[tenant]
        if waiting:
            self._waiting[tenant] = waiting  # behind the others
        self._busy = True
        reading = asyncio.get_running_loop().run_in_executor(self._thread, tokenize, runtime, request)
        reading.add_done_callback(partial(self._ended, answer))

    def _ended(self, answer: asyncio.Future[Tokenization], reading: asyncio.Future[Tokenization]) -> None:
        self._busy = False
        if not answer.done():
            if (error := reading.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(reading.result())
        self._next()


def lower_thread_priority() -> None:
    """Lower this thread's priority below the step loop's."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), own + _NICENESS)


def tokenize(runtime: Runtime, request: TokenizationRequest) -> Tokenization:
    """The tokens of a text, or the text of tokens; ``InvalidInputError`` for a token that the model lacks. No token is
    added before a text; control tokens have no text."""
    if request.text is not None:
        # A runtime may add its first token before a text that lacks it: with one there, it adds none.
        begin = runtime.description.bos
        tokens = runtime.tokenize(begin + request.text)
        return Tokenization(request.id, request.text, tuple(tokens[1:] if begin else tokens))
    pieces = runtime.vocabulary.pieces
    unknown = next((token for token in request.tokens if not 0 <= token < len(pieces)), None)
    if unknown is not None:
        raise InvalidInputError(
            f"The model has no token {unknown}.", where="tokens", next_step=f"Send ids from 0 to {len(pieces) - 1}."
        )
    content = b"".join(pieces[token] for token in request.tokens)
    return Tokenization(request.id, content.decode(errors="replace"), request.tokens)
