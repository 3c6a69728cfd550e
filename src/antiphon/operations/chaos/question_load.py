"""Questions that are asked while an experiment runs, at a rate that does not wait for answers (an open loop).

Invariant: a question's time counts from the moment at which it was due, so that a platform that stands still is not
flattered by questions that were never asked meanwhile (coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import aiohttp
import msgspec

from antiphon.core.errors import AntiphonError
from antiphon.core.outgoing import connector
from antiphon.core.tls import ClientTls
from antiphon.operations.chaos.journal import QuestionCounts

MOST_OPEN = 256
"""Questions without an answer at one time; what is due beyond them counts as failed."""

_KEPT = 20_000
_STOOD_IN = ("fallback", "degraded")

Result = Literal["answered", "degraded", "refused", "failed", "unexplained"]
"""``degraded``: answered by something that stood in. ``refused``: an error that says why. ``failed``: no connection, or
no answer in time. ``unexplained``: neither an answer nor an error of the API's form."""


class QuestionResult(msgspec.Struct, frozen=True):
    """One question that has ended; times are of the monotonic clock."""

    due: float
    ended: float
    result: Result


class QuestionLoad:
    """Asks a gateway the same kinds of questions again and again.

    Args:
        url, key: of the gateway. bodies: requests of ``/v1/chat/completions``, taken in turns; each gets a text of its
            own.
        rate: questions a second. timeout: seconds after which one counts as failed.
        mark: names the run in each request's metadata.
    """

    def __init__(
        self, url: str, key: str, bodies: Sequence[Mapping[str, Any]], *, rate: float, timeout: float, mark: str,
        tls: ClientTls | None = None,
    ) -> None:  # fmt: skip
        self._url, self._key, self._tls = f"{url}/v1/chat/completions", key, tls
        self._bodies = itertools.cycle(bodies)
        self._rate, self._timeout, self._mark = rate, timeout, mark
        self._ended: deque[QuestionResult] = deque(maxlen=_KEPT)
        self._open: dict[int, float] = {}
        self._sent = 0
        self.last_problem = ""
        """Problem of the last question that was not answered."""

    async def ask(self) -> None:
        """Ask until cancelled; what is under way then counts for nothing."""
        headers = {"authorization": f"Bearer {self._key}"}
        verify = True if self._tls is None else self._tls.context()
        async with (
            aiohttp.ClientSession(connector=connector("chaos", verify), headers=headers) as session,
            asyncio.TaskGroup() as questions,
        ):
            began = time.monotonic()
            for number in itertools.count():
                due = began + number / self._rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self._sent += 1
                if len(self._open) >= MOST_OPEN:
                    self._end(due, "failed", f"{MOST_OPEN} questions are open.")
                    continue
                self._open[number] = due
                questions.create_task(self._question(session, number, due))

    async def _question(self, session: aiohttp.ClientSession, number: int, due: float) -> None:
        body = dict(next(self._bodies))
        # A text of its own, so that no stored answer is served in the place of what is to be tried.
        said = body["messages"][-1]["content"]
        body["messages"] = [{"role": "user", "content": f"{said} ({self._mark} {number})"}]
        result: Result = "failed"
        try:
            async with asyncio.timeout(self._timeout):
                async with session.post(self._url, json=body, allow_redirects=False) as response:
                    result, problem = classified(response.status, await response.read())
        except (OSError, aiohttp.ClientError, TimeoutError, AntiphonError) as error:
            problem = str(error) or type(error).__name__
        finally:
            self._open.pop(number, None)
        self._end(due, result, problem)

    def _end(self, due: float, result: Result, problem: str) -> None:
        self._ended.append(QuestionResult(due, time.monotonic(), result))
        if problem:
            self.last_problem = problem

    def share(self, results: Sequence[Result], window: float) -> float | None:
        """Share of the questions that ended within the last seconds in one of these ways; where none has ended and some
        wait, they count as failed. ``None`` before there was one."""
        since = time.monotonic() - window
        ended = [one.result for one in self._ended if one.ended >= since]
        if not ended:
            return float("failed" in results) if self._open else None
        return sum(one in results for one in ended) / len(ended)

    def latency(self, percentile: float, window: float) -> float | None:
        """Seconds that questions took or wait so far, by the nearest rank of those of the last seconds."""
        now = time.monotonic()
        times = [one.ended - one.due for one in self._ended if one.ended >= now - window]
        return _rank([*times, *(now - due for due in self._open.values())], percentile)

    def counts(self, since: float = -math.inf) -> QuestionCounts:
        """Counts of all questions that were due since a moment of the monotonic clock."""
        ended = [one for one in self._ended if one.due >= since]
        by = {result: sum(one.result == result for one in ended) for result in get_args(Result)}
        times = [one.ended - one.due for one in ended if one.result in ("answered", "degraded")]
        return QuestionCounts(
            sent=len(ended),
            answered=by["answered"] + by["degraded"],
            degraded=by["degraded"],
            refused=by["refused"],
            failed=by["failed"],
            unexplained=by["unexplained"],
            p50=_rank(times, 50),
            p95=_rank(times, 95),
            slowest=max(times, default=None),
        )


def classified(status: int, body: bytes) -> tuple[Result, str]:
    """The result of a question, by its response, and what was wrong with it."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return "unexplained", f"{status} without JSON"
    if status == 200:
        try:
            text = document["choices"][0]["message"]["content"]
            role = document.get("antiphon", {}).get("role", "")
        except (KeyError, IndexError, TypeError, AttributeError):
            return "unexplained", "200 without an answer"
        if not isinstance(text, str) or not text:
            return "unexplained", "200 without a text"
        return ("degraded" if role in _STOOD_IN else "answered"), ""
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, dict) and error.get("code") and error.get("message"):
        return "refused", f"{status} {error['code']}: {error['message']}"
    return "unexplained", f"{status} without a reason"


def _rank(values: Sequence[float], percentile: float) -> float | None:
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percentile / 100) - 1)]
