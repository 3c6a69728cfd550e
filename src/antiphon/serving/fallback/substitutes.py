"""Substitutes for a release whose engine does not answer: other engines in order, then stored answers.

Invariants:
- Only a request with a waiting user gets a substitute: a batch row waits for its engine, and an evaluated or mirrored
  answer must come from the model itself.
- An answer of another release is served only to principals whom policy lets ask that release, and unmasked.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.answers import StoredAnswer
from antiphon.catalog.serving.precomputed_modes import PrecomputedMode
from antiphon.catalog.serving.receipt import Degradation
from antiphon.core.clock import parse_duration
from antiphon.core.errors import PrecomputedOnlyError
from antiphon.definitions.degradation import MAIN, Target, WhenUnavailable, target_of
from antiphon.serving.answering.context import AnswerContext
from antiphon.serving.answering.policy import ReleaseResources, policy_context
from antiphon.serving.services import Services


def targets(context: AnswerContext) -> tuple[Target, ...]:
    """Engines and models to try in order: the release's own model on the main engine first."""
    release = context.release
    own = Target(MAIN, release.bundle.model.served_name(release.scope.tenant))
    if not context.interactive:
        return (own,)
    return tuple(dict.fromkeys((own, *(target_of(named, own.model) for named in context.application.fallback))))


def candidates(
    services: Services, context: AnswerContext, resources: ReleaseResources, stored_alone: bool
) -> Iterator[tuple[StoredAnswer, Degradation]]:
    """Stored answers that may be served when no engine answers, the best first; each is looked up when it is needed.

    Args:
        stored_alone: the application was ordered to answer from store alone, which serves those of the release itself
            also where it declares to refuse.
    """
    rule, request = context.application.when_unavailable, context.request
    if stored_alone and rule.serve == "refuse":
        rule = WhenUnavailable("precomputed")
    if rule.serve == "refuse" or context.cache_namespace is None or not context.interactive or context.reports_tokens:
        return
    release = context.release
    for namespace in dict.fromkeys((context.cache_namespace, release.id)):
        if found := _stored(services, context, namespace, rule):
            yield found, _degraded(context, found, "precomputed", release)
    if rule.serve != "previous_release":
        return
    previous = services.releases.previous(request.scope, request.application)
    if previous is None or previous.id == release.id or not _permitted(services, context, previous, resources):
        return
    if found := _stored(services, context, previous.id, rule):
        yield found, _degraded(context, found, "previous_release", previous)


def not_in_store(mode: PrecomputedMode, now: datetime) -> PrecomputedOnlyError:
    """The refusal of a question without a stored answer, with the time until engines answer again."""
    return PrecomputedOnlyError(
        f"{mode.application} answers from store alone until {mode.until:%Y-%m-%d %H:%M:%S}Z, where this answer is not.",
        retry_after=max(1.0, (mode.until - now).total_seconds()),
        where=mode.application,
        next_step="Ask again after the time that Retry-After says.",
    )


def _stored(services: Services, context: AnswerContext, namespace: str, rule: WhenUnavailable) -> StoredAnswer | None:
    found = services.stored.latest(
        context.request.scope,
        namespace,
        context.arrival.subject,
        context.question_hash,
        as_of=context.as_of,
    )
    if found is None or (rule.max_age is not None and context.as_of - found.as_of > parse_duration(rule.max_age)):
        return None
    return found


def _degraded(
    context: AnswerContext, found: StoredAnswer, policy: Literal["precomputed", "previous_release"], release: Release
) -> Degradation:
    age = (context.as_of - found.as_of).total_seconds()
    return Degradation(policy, release.id, age)


def _permitted(services: Services, context: AnswerContext, previous: Release, resources: ReleaseResources) -> bool:
    request, purpose = context.request, previous.bundle.application.purpose
    decision = services.decide(
        request.principal,
        "answer",
        resources.of(previous),
        policy_context(request.scope, purpose, request.path, request.originating_user, request.entity, context.as_of),
    )
    return decision.allowed and not decision.masked
