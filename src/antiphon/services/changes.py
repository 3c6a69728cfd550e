"""Release notes of one project, with the texts of policies and the definitions of views that they compare."""

from __future__ import annotations

from functools import partial

from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.governance.policy.document import default_document
from antiphon.releases.notes import ReleaseNotes
from antiphon.services.project.store import Store

SCANNED_POLICIES = 1_000
"""The latest policy versions that are looked through for a text."""


def release_notes(store: Store, scope: Scope | None = None) -> ReleaseNotes:
    """The notes of a scope's releases."""
    where = scope or store.scope
    return ReleaseNotes(store.releases, partial(_policy_text, store, where), partial(_view, store, where))


def _policy_text(store: Store, scope: Scope, digest: str) -> str | None:
    default = default_document()
    if digest == default.digest:
        return default.cedar
    versions = store.policy_sets.list(scope, SCANNED_POLICIES)
    return next((one.document.cedar for one in versions if one.digest == digest), None)


def _view(store: Store, scope: Scope, name: str, version: str) -> FeatureViewSpec | None:
    try:
        return store.definitions.get(scope, name, version)
    except NotFoundError:
        return None  # of another tenant, or gone
