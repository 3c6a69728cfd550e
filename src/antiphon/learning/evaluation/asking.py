"""Asks serving's ``answer()`` for releases that are evaluated: waits for an engine that is away, keeps what it has.

While an evaluation is under way its answers are rows of the catalog, so that whichever process goes on with it asks no
question again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import msgspec

from antiphon.catalog.learning.evaluations import Evaluations
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.errors import (
    BudgetExhaustedError,
    ConflictError,
    EngineError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.serving.ports import EntityReader
from antiphon.serving.request import Answer, AnswerRequest

T = TypeVar("T")

TRANSIENT_ERRORS = (UnavailableError, EngineError, OverloadedError)
"""Errors that pass by themselves and are waited for."""

BUDGET_SECONDS = 5.0
"""Interval at which a request is tried again that a budget had no room for."""

_waits: ContextVar[Callable[[str], None]] = ContextVar("evaluation_waits", default=lambda what: None)
"""Says, to who follows the evaluation that a request belongs to, why it waits."""

AnswerFunction = Callable[[AnswerRequest], Awaitable[Answer]]
"""serving's ``answer()``."""

Progress = Callable[[int, int, str], None]
"""Receives the progress of an evaluation: done, total, current work."""


class EvaluatedReleases:
    """Implements serving's ``ReleaseAssignment`` with the releases that are being evaluated; nothing is live in it."""

    def __init__(self, *releases: Release) -> None:
        self._releases = {release.id: release for release in releases}

    def get(self, scope: Scope, release: str) -> Release:
        """One of them; raises ``NotFoundError``."""
        if release not in self._releases:
            raise NotFoundError(f"The release {release!r} is not being evaluated.", where=str(scope))
        return self._releases[release]

    def staged(self, scope: Scope, release: str) -> Release:
        """The same: what is evaluated stays in its stage."""
        return self.get(scope, release)

    def live(self, scope: Scope, application: str) -> None:
        return None

    def applications(self, scope: Scope) -> Sequence[str]:
        """None: nothing is live."""
        return ()

    def awaited(self, scope: Scope, application: str) -> bool:
        return False

    def previous(self, scope: Scope, application: str) -> None:
        """None: what stands in for a release says nothing about it."""
        return None

    def assign(self, scope: Scope, application: str, unit: str, request_id: str) -> None:
        return None


AnswerFactory = Callable[[EntityReader, EvaluatedReleases, bool], AnswerFunction]
"""Makes serving's ``answer()`` over a reader of features and some releases, everything else as served.

With ``True`` a prompt that comes again is not generated again, so time and cost must not be measured of it.
"""


class KeptAnswers:
    """The answers of one evaluation under way, by what was asked. Those of another subject under its id are others."""

    def __init__(self, evaluations: Evaluations, scope: Scope, id: str, subject: dict[str, Any]) -> None:
        self._keep = partial(evaluations.keep_answer, scope, id)
        self._subject = subject
        self._kept = evaluations.answers(scope, id)

    def find(self, key: str, kind: type[T]) -> T | None:
        """The answer that was kept; ``None`` when there is none, or it cannot be read: it is asked again."""
        with suppress(msgspec.ValidationError):
            return msgspec.convert(self._kept.get(self._question(key)), kind)
        return None

    def keep(self, key: str, answer: Any) -> None:
        """Keep an answer; it is in the catalog when this returns."""
        self._keep(self._question(key), answer)

    def _question(self, key: str) -> str:
        return content_hash([self._subject, key])


def next_id(kind: str, scope: Scope, subject: Mapping[str, object], get: Callable[[Scope, str], object]) -> str:
    """The id of the first evaluation of a subject that is not finished, so that an interrupted one goes on.

    Args:
        kind: what the id begins with.
        get: returns what is finished; raises ``NotFoundError`` for any other id.
    """
    for number in range(10_000):
        id = f"{kind}_{content_hash([str(scope), subject, number])[:26]}"
        try:
            get(scope, id)
        except NotFoundError:
            return id
    raise ConflictError("The same release was evaluated too often on the same data.", where=str(scope))


async def answer_each(
    kept: KeptAnswers,
    kind: type[T],
    pieces: Mapping[str, Callable[[], Awaitable[T]]],
    concurrency: int,
    progress: Progress | None,
    note: str,
    known: Mapping[str, T] = {},
) -> list[T]:
    """The results of the pieces: those that are known or were kept under their keys, the others done and kept."""
    done = {key: answer for key in pieces if (answer := known.get(key) or kept.find(key, kind)) is not None}

    async def one(key: str) -> None:
        result = await pieces[key]()
        await asyncio.to_thread(kept.keep, key, result)
        done[key] = result
        if progress is not None:
            progress(len(done), len(pieces), note)

    def tell(what: str) -> None:
        if progress is not None:
            progress(len(done), len(pieces), f"waits: {what}")

    before = _waits.set(tell)
    try:
        await _all([partial(one, key) for key in pieces if key not in done], concurrency)
    finally:
        _waits.reset(before)
    return [done[key] for key in pieces]


async def ask_patiently(request: AnswerRequest, answer: AnswerFunction, patience: float) -> Answer:
    """An answer, waiting at most so many seconds for an engine that is away, and for a budget until it has room: what
    was answered is paid for already, and a failure would pay for it again."""
    waited, pause = 0.0, 0.25
    while True:
        try:
            return await answer(request)
        except BudgetExhaustedError as error:
            _waits.get()(error.what)  # Also where it never has room: a person may raise it.
            await asyncio.sleep(min(error.retry_after or BUDGET_SECONDS, BUDGET_SECONDS))
        except TRANSIENT_ERRORS:
            if waited >= patience:
                raise
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(pause * 2, 5.0)


async def first_attempt(answer: Answer, texts: Blobs) -> str:
    """An answer's text as the model wrote it, before a guard acted."""
    attempts = answer.receipt.attempts
    if not attempts:
        return answer.text
    content = await asyncio.to_thread(texts.get, answer.receipt.scope, attempts[0].text_blob)
    return content.decode()


async def _all(pieces: Sequence[Callable[[], Coroutine[Any, Any, None]]], concurrency: int) -> None:
    """Run every piece, at most so many at once; the first failure ends the others and is raised."""
    waiting = iter(pieces)

    async def work() -> None:
        for piece in waiting:
            await piece()

    workers = [asyncio.ensure_future(work()) for _ in range(min(concurrency, len(pieces)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
