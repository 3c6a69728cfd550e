"""A key's quotas at the endpoints that generate: reserve before, settle after, say in headers how it stands.

Header names and the form of durations follow OpenAI's API reference ("Rate limits").
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from starlette.concurrency import run_in_threadpool

from antiphon.core.errors import DeadlineExceededError
from antiphon.gateway.http.departure import CallerLeftError
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import REQUESTS, TOKENS, TOKENS_DAY, Principal
from antiphon.governance.identity.quotas import Grant
from antiphon.serving.request import AnswerRequest

_SUFFIXES = {REQUESTS: "requests", TOKENS: "tokens", TOKENS_DAY: "tokens-day"}
BYTES_PER_TOKEN = 4
_TOKENS_PER_TURN = 4
_MOST_MODELS = 10_000


class PromptSizes:
    """Estimates the tokens of a prompt before the engine has counted them: from its length, and from how many more the
    prompts of that application or model had."""

    def __init__(self) -> None:
        self._more: dict[str, float] = {}

    def expected(self, question: AnswerRequest) -> int:
        """Tokens of the whole prompt."""
        return ceil(_sent(question) + self._more.get(question.application, 0.0))

    def saw(self, question: AnswerRequest, prompt_tokens: int) -> None:
        """A prompt had so many."""
        more = max(0.0, prompt_tokens - _sent(question))
        before = self._more.get(question.application)
        if before is None and len(self._more) >= _MOST_MODELS:
            self._more.clear()
        self._more[question.application] = more if before is None else max(more, before * 0.9 + more * 0.1)


class Reservation:
    """One request's part of its key's quotas."""

    def __init__(self, questions: Sequence[AnswerRequest], grant: Grant, sizes: PromptSizes) -> None:
        self._questions = questions
        self._grant = grant
        self._sizes = sizes

    def answered(self, prompt_tokens: int, completion_tokens: int) -> None:
        """It took so many tokens; none, when the answer came from store."""
        if prompt_tokens and len(self._questions) == 1:
            self._sizes.saw(self._questions[0], prompt_tokens)
        self._grant.settle(prompt_tokens + completion_tokens)

    def failed(self, failure: BaseException | None) -> None:
        """There is no answer. What the engine did for nobody, because the caller left or set a deadline, is counted as
        it was reserved: else going away before the end would be free."""
        if not isinstance(failure, CallerLeftError | DeadlineExceededError):
            self._grant.settle(0)


async def reserve(
    services: GatewayServices,
    principal: Principal,
    questions: Sequence[AnswerRequest],
    choices: int,
    sizes: PromptSizes,
) -> Reservation | None:
    """Let a request in under its key's quotas; ``None`` where none are kept.

    Args:
        questions: one for each answer that it asks for; ``choices`` of them in a row share a prompt.

    Raises:
        RateLimitError: a quota is used up.
        UnavailableError: the catalog is away.
    """
    tokens = 0
    if services.access.quotas.measures(principal):
        first = questions[0]
        most = first.overrides.max_tokens
        if most is None:
            most = services.generation.most_tokens(first.scope, first.application)
        tokens = sum(sizes.expected(question) for question in questions[::choices]) + len(questions) * most
    grant = await _granted(services, principal, tokens)
    return None if grant is None else Reservation(questions[::choices], grant, sizes)


async def reserve_tokens(services: GatewayServices, principal: Principal, tokens: int) -> Reservation | None:
    """The same for a request that takes about so many tokens."""
    grant = await _granted(services, principal, tokens)
    return None if grant is None else Reservation((), grant, PromptSizes())


async def count_request(services: GatewayServices, principal: Principal) -> None:
    """Let in a request that generates nothing: it takes of the quota of requests alone.

    Raises:
        RateLimitError: that quota is used up.
        UnavailableError: the catalog is away.
    """
    grant = await _granted(services, principal, 0)
    if grant is not None:
        grant.settle(0)


async def _granted(services: GatewayServices, principal: Principal, tokens: int) -> Grant | None:
    quotas = services.access.quotas
    return quotas.at_once(principal, tokens) or await run_in_threadpool(quotas.grant, principal, tokens)


def headers(services: GatewayServices, principal: Principal) -> dict[str, str]:
    """Rate limit headers with the status of the key's quotas; empty for a key without."""
    found = {}
    for status in services.access.quotas.statuses(principal):
        suffix = _SUFFIXES[status.meter.name]
        found[f"x-ratelimit-limit-{suffix}"] = str(status.meter.capacity)
        found[f"x-ratelimit-remaining-{suffix}"] = str(status.remaining)
        found[f"x-ratelimit-reset-{suffix}"] = duration(status.reset)
    return found


def duration(seconds: float) -> str:
    """As OpenAI writes one: ``120ms``, ``1.5s``, ``6m0s``, ``3h0m12s``; rounded up to a millisecond."""
    milliseconds = ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{max(0, milliseconds)}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    shown = f"{rest / 1000:g}s"
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60}m{shown}"
    return f"{minutes}m{shown}" if minutes else shown


def _sent(question: AnswerRequest) -> float:
    if question.prompt_ids:
        return len(question.prompt_ids)
    texts = [turn.content for turn in question.messages] or [question.prompt or question.question or ""]
    return sum(len(text.encode()) / BYTES_PER_TOKEN + _TOKENS_PER_TURN for text in texts)
