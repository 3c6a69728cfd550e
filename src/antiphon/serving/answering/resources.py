"""What policy is told about a release: made once, for a bundle never changes."""

from __future__ import annotations

from antiphon.catalog.releases import Release
from antiphon.governance.policy_request import Resource, application_resource

_MOST = 1_000


class Resources:
    """Releases as resources of policy, remembered by the release's id."""

    def __init__(self) -> None:
        self._known: dict[str, Resource] = {}

    def of(self, release: Release) -> Resource:
        """The release; an implicit one has no trained model."""
        bundle = release.bundle
        if release.number == 0:
            return application_resource(bundle.application)
        known = self._known.get(release.id)
        if known is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            known = application_resource(bundle.application, trained_for=bundle.model.purposes)
            self._known[release.id] = known
        return known
