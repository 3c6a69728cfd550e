"""Records as policy's resources: the features that an application, an answer's receipt or a view discloses."""

from __future__ import annotations

import msgspec

from antiphon.catalog.features.definitions import AppliedProjects
from antiphon.catalog.releases.releases import Release, Releases
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.governance.policy.request import PolicyColumn, Resource, application_resource
from antiphon.serving.builtin import BUILTIN

_MASKED = "masked"
_LOST = PolicyColumn("*", "restricted")


class ReleaseDisclosure(msgspec.Struct, frozen=True):
    """An application as one of its releases answers."""

    resource: Resource
    purpose: str = ""
    keys: tuple[str, ...] = ()


_KEPT_RELEASES = 64


class Disclosures:
    """Reads from releases and the applied project what records disclose."""

    def __init__(self, releases: Releases, applied: AppliedProjects) -> None:
        self._releases = releases
        self._applied = applied
        self._known: dict[tuple[Scope, str], Release] = {}

    def of_application(self, scope: Scope, application: str, release: str | None) -> ReleaseDisclosure:
        """An application by one of its releases, or as it is now: by the live one, or as declared before there is one.

        What a lost release read is not known: it counts as restricted. A plain model reads nothing.
        """
        if release is None:
            return self._present(scope, application)
        if release.startswith(BUILTIN):
            return ReleaseDisclosure(Resource("application", application))
        kept = self._release(scope, release)
        if kept is None:
            return ReleaseDisclosure(Resource("application", application, columns=(_LOST,)))
        return _answering(kept)

    def _present(self, scope: Scope, application: str) -> ReleaseDisclosure:
        kept = self._releases.live(scope, application)
        if kept is not None:
            return _answering(kept)
        applied = self._applied.current(scope)
        declared = None if applied is None else applied.project.applications.get(application)
        if declared is not None:
            return ReleaseDisclosure(application_resource(declared), declared.purpose, tuple(declared.entity_keys))
        earlier = self._releases.list(scope, application)
        return _answering(earlier[0]) if earlier else ReleaseDisclosure(Resource("application", application))

    def of_receipt(self, scope: Scope, receipt: Receipt) -> Resource:
        """The application with those of its features that this receipt holds: what was masked then is not in it."""
        hidden = {one.name for one in receipt.features if one.contract == _MASKED}
        if self._release(scope, receipt.release) is None:
            columns = [self._column(scope, one.name) for one in receipt.features if one.name not in hidden]
            return Resource("application", receipt.application, scope.tenant, tuple(columns))
        resource = self.of_application(scope, receipt.application, receipt.release).resource
        columns = [column for column in resource.columns if not _all_hidden(column.name, receipt, hidden)]
        return msgspec.structs.replace(resource, columns=tuple(columns))

    def _column(self, scope: Scope, feature: str) -> PolicyColumn:
        """A feature as the applied definitions tag it, where no release says so."""
        view, _, name = feature.partition(".")
        applied = self._applied.current(scope)
        declared = None if applied is None else applied.project.views.get(view)
        tags = None if declared is None else declared.tags.get(name)
        return PolicyColumn(feature) if tags is None else PolicyColumn(feature, tags.sensitivity, tags.purposes)

    def _release(self, scope: Scope, release: str) -> Release | None:
        """A release as it was when it was first looked at: nothing that is disclosed of one ever changes."""
        known = self._known.get((scope, release))
        if known is not None:
            return known
        try:
            found = self._releases.get(scope, release)
        except NotFoundError:
            return None
        if len(self._known) >= _KEPT_RELEASES:
            self._known.clear()
        return self._known.setdefault((scope, release), found)


def _answering(release: Release) -> ReleaseDisclosure:
    application = release.bundle.application
    trained_for = None if release.number == 0 else release.bundle.model.purposes
    resource = application_resource(application, trained_for=trained_for)
    return ReleaseDisclosure(resource, application.purpose, tuple(application.entity_keys))


def view_resource(applied: AppliedProjects, scope: Scope, view: str) -> Resource:
    """A view with every feature that it is declared with."""
    current = applied.current(scope)
    declared = None if current is None else current.project.views.get(view)
    tags = {} if declared is None else declared.tags
    columns = [PolicyColumn(f"{view}.{name}", tag.sensitivity, tag.purposes) for name, tag in sorted(tags.items())]
    return Resource("view", view, scope.tenant, tuple(columns or [PolicyColumn(f"{view}.*")]))


def _all_hidden(column: str, receipt: Receipt, hidden: set[str]) -> bool:
    """Tells whether every feature of a column that the receipt names was masked."""
    view, _, name = column.partition(".")
    named = [
        one.name for one in receipt.features
        if one.name == column or (name == "*" and one.name.partition(".")[0] == view)
    ]  # fmt: skip
    return bool(named) and hidden.issuperset(named)
