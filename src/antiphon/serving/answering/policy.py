"""The policy decision about an answer: its resource, its context, and its refusal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.receipt import Path
from antiphon.core.errors import ForbiddenError
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Decision, Resource, application_resource

_MAX_RELEASES = 1_000


class ReleaseResources:
    """Releases as resources of policy, cached by the release's id: a bundle never changes."""

    def __init__(self) -> None:
        self._known: dict[str, Resource] = {}

    def of(self, release: Release) -> Resource:
        """The release; an implicit one has no trained model."""
        bundle = release.bundle
        if release.number == 0:
            return application_resource(bundle.application)
        known = self._known.get(release.id)
        if known is None:
            if len(self._known) >= _MAX_RELEASES:
                self._known.clear()
            known = application_resource(bundle.application, trained_for=bundle.model.purposes)
            self._known[release.id] = known
        return known


def policy_context(
    scope: Scope, purpose: str, path: Path, originator: str | None, keys: Mapping[str, str], as_of: datetime
) -> dict[str, Any]:
    """The context of a policy request about an answer or a lookup."""
    return {
        "purpose": purpose,
        "path": path,
        "tenant": scope.tenant,
        "originator": originator,
        "keys": keys,
        "as_of": int(as_of.timestamp()),
    }


def require_allowed(decision: Decision, principal: Principal, application: str) -> None:
    """Refuse a question that policy denies (``ForbiddenError``)."""
    if not decision.allowed:
        raise ForbiddenError(
            f"Policy does not let {principal.id} ask {application}: {decision.reason}.",
            where="policy",
            next_step=f"`antiphon policy explain {principal.id} answer application/{application}` "
            "says what would have to hold.",
        )
