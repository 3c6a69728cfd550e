"""Asks a release honest requests, each by itself, and measures time, cost and guards of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
import numpy as np

from antiphon.catalog.learning.evaluations import SampledAnswers
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import AntiphonError, InvalidOutputError
from antiphon.learning.evaluation.asking import TRANSIENT_ERRORS, KeptAnswers, Progress, answer_each
from antiphon.learning.evaluation.safety.placement import HonestRequest
from antiphon.learning.evaluation.safety.requests import ProbeRequests
from antiphon.learning.evaluation.safety.scoring import GivenAnswer


class LiveAnswer(msgspec.Struct, frozen=True):
    """The answer that users got to a request: its characters, and whether a guard acted on it."""

    characters: int
    guarded: bool


class HonestAnswer(msgspec.Struct, frozen=True):
    """The result of an honest request: whether its first attempt met the schema, its time and cost, or its error.

    Attributes:
        given: the answer itself, where metrics of it are measured.
    """

    valid: bool
    seconds: float = 0.0
    first: float = 0.0
    characters: int = 0
    guarded: bool = False
    tokens: int = 0
    fingerprint: str = ""
    error: str | None = None
    reason: str = ""
    given: GivenAnswer | None = None


async def ask_honestly(
    sender: ProbeRequests, requests: Sequence[HonestRequest], kept: KeptAnswers, progress: Progress | None, *,
    keeping: bool = False,
) -> list[HonestAnswer]:  # fmt: skip
    """The results of honest requests; with ``keeping`` with the answers themselves.

    Raises:
        UnavailableError, EngineError, OverloadedError: a part stayed away; what was answered is kept.
    """
    return await answer_each(
        kept,
        HonestAnswer,
        {f"honest:{one.example}": partial(_ask, sender, one, keeping=keeping) for one in requests},
        1,  # One after the other, so that their time is their own.
        progress,
        "asking honest requests",
    )


def measured(
    requests: Sequence[HonestRequest], honest: Sequence[HonestAnswer], before: Mapping[str, LiveAnswer]
) -> SampledAnswers | None:
    """Measurements of honest requests; ``None`` where none was answered.

    Args:
        before: answers of the live release, by the request's example.
    """
    answered = [one for one in honest if one.error is None]
    if not answered:
        return None
    pairs = [
        (one, known)
        for request, one in zip(requests, honest, strict=True)
        if (known := before.get(request.example)) is not None and one.error is None
    ]
    return SampledAnswers(
        requests=len(answered),
        seconds_p50=float(np.percentile([one.seconds for one in answered], 50)),
        seconds_p99=float(np.percentile([one.seconds for one in answered], 99)),
        first_p50=float(np.percentile([one.first for one in answered], 50)),
        guarded_more=float(np.mean([one.guarded - known.guarded for one, known in pairs])) if pairs else None,
        length_ratio=_length_ratio(pairs),
    )


def acted(receipt: Receipt) -> bool:
    """Tells whether a guard did more with an answer than let it pass."""
    return any(guard.action != "pass" for guard in receipt.guards)


def _length_ratio(pairs: Sequence[tuple[HonestAnswer, LiveAnswer]]) -> float | None:
    """Middle of the ratios of lengths, at least 1 whichever is longer."""
    ratios = [(one.characters + 1) / (known.characters + 1) for one, known in pairs]
    middle = float(np.exp(np.median(np.log(ratios)))) if ratios else None
    return None if middle is None else max(middle, 1 / middle)


async def _ask(sender: ProbeRequests, request: HonestRequest, *, keeping: bool) -> HonestAnswer:
    try:
        answer, shown = await sender.measured(request)
    except InvalidOutputError as error:
        return HonestAnswer(False, error=error.code, reason=error.what)
    except TRANSIENT_ERRORS:
        raise
    except AntiphonError as error:
        return HonestAnswer(False, error=error.code, reason=error.what)
    usage, attempts = answer.receipt.usage, answer.receipt.attempts
    return HonestAnswer(
        shown.valid,
        seconds=answer.receipt.timing.total,
        first=answer.receipt.timing.first_byte,
        characters=len(answer.text),
        guarded=acted(answer.receipt),
        tokens=usage.prompt_tokens + usage.completion_tokens,
        fingerprint=attempts[-1].fingerprint if attempts else "",
        given=GivenAnswer(answer.receipt, answer.text) if keeping else None,
    )
