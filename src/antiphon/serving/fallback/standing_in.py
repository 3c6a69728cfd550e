"""What stands in for a release whose engine does not answer: other engines in order, then answers in store.

Invariants:
- Only a question that somebody waits for gets a stand-in: a batch row waits for its engine, and what is evaluated or
  mirrored must come from the model itself.
- An answer of another release is served only to whom policy lets ask that release, and unmasked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from antiphon.catalog.answers import StoredAnswer
from antiphon.catalog.receipts import Degraded, PassedOver
from antiphon.catalog.releases import Release
from antiphon.core.clock import parse_duration
from antiphon.definitions.degradation import MAIN, Target, WhenUnavailable, target_of
from antiphon.governance.policy_request import Resource
from antiphon.serving.answering.committing import Wrote
from antiphon.serving.answering.prepared import Prepared, wants_tokens
from antiphon.serving.fallback.engines import Member
from antiphon.serving.services import Services


class By(msgspec.Struct, frozen=True):
    """Who writes an answer, and who did not before."""

    engine: Member
    passed: tuple[PassedOver, ...]

    @property
    def wrote(self) -> Wrote:
        """The same, for the receipt."""
        return Wrote(self.engine.name, self.passed)


def waits(prepared: Prepared) -> bool:
    """Whether somebody waits for the whole answer of a release."""
    request = prepared.request
    return request.path == "online" and request.role == "live" and not request.only


def targets(prepared: Prepared) -> tuple[Target, ...]:
    """Whom to ask, in order: the release's own model on the main engine first."""
    own = Target(MAIN, prepared.release.bundle.model.name)
    if not waits(prepared):
        return (own,)
    return tuple(dict.fromkeys((own, *(target_of(named, own.model) for named in prepared.application.fallback))))


def candidates(
    services: Services, prepared: Prepared, resource: Callable[[Release], Resource]
) -> Iterator[tuple[StoredAnswer, Degraded]]:
    """Stored answers that may be served, the best first; looked up one after another, as they are asked for."""
    rule, request = prepared.application.when_unavailable, prepared.request
    if rule.serve == "refuse" or prepared.cache_namespace is None or not waits(prepared) or wants_tokens(request):
        return
    release = prepared.release
    for namespace in dict.fromkeys((prepared.cache_namespace, release.id)):
        if found := _stored(services, prepared, namespace, rule):
            yield found, _degraded(prepared, found, "precomputed", release)
    if rule.serve != "previous_release":
        return
    previous = services.releases.previous(request.scope, request.application)
    if previous is None or previous.id == release.id or not _permitted(services, prepared, previous, resource):
        return
    if found := _stored(services, prepared, previous.id, rule):
        yield found, _degraded(prepared, found, "previous_release", previous)


def _stored(services: Services, prepared: Prepared, namespace: str, rule: WhenUnavailable) -> StoredAnswer | None:
    found = services.stored.latest(
        prepared.request.scope,
        namespace,
        prepared.arrival.subject,
        prepared.question_hash,
        as_of=prepared.as_of,
    )
    if found is None or (rule.max_age is not None and prepared.as_of - found.as_of > parse_duration(rule.max_age)):
        return None
    return found


def _degraded(
    prepared: Prepared, found: StoredAnswer, policy: Literal["precomputed", "previous_release"], release: Release
) -> Degraded:
    age = (prepared.as_of - found.as_of).total_seconds()
    return Degraded(policy, release.id, age)


def _permitted(
    services: Services, prepared: Prepared, previous: Release, resource: Callable[[Release], Resource]
) -> bool:
    request = prepared.request
    decision = services.decide(
        request.principal,
        "answer",
        resource(previous),
        {
            "purpose": previous.bundle.application.purpose,
            "path": request.path,
            "tenant": request.scope.tenant,
            "originator": request.originating_user,
            "keys": request.entity,
            "as_of": int(prepared.as_of.timestamp()),
        },
    )
    return decision.allowed and not decision.masked
