"""Lookup over the publications of several tenants: a scope's own, and those of owners that grant views to it.

Invariants: each owner's publication is resolved once for a request, by the reader that reads for the owner too, and
every value of its views comes from it; the number that is answered, and that a client may ask for at least, is the own
one, and 0 where no own view is read. Whether a view may be read was decided before (``services.governance.granted``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from antiphon.core.scope import Scope
from antiphon.definitions.granted import owner_of
from antiphon.features.online.entity_rows import SnapshotRows
from antiphon.features.online.lookup import FeatureReader, FeatureRows
from antiphon.features.values import EntityRow


class GrantedReader(FeatureReader):
    """Reads features of one scope, and views of other tenants as ``OWNER/VIEW``. Safe to share between threads.

    Args:
        owner: gives the reader of another tenant's publications, in the same environment.
        options: as for :class:`FeatureReader`.
    """

    def __init__(self, scope: Scope, *, owner: Callable[[str], FeatureReader], **options: Any) -> None:
        super().__init__(scope, **options)
        self._owner = owner
        self._renamed: WeakKeyDictionary[SnapshotRows, SnapshotRows] = WeakKeyDictionary()

    def rows(
        self,
        views: Mapping[str, str],
        keys: Sequence[Mapping[str, str]],
        as_of: int | Sequence[int],
        minimum_publication: int | None = None,
    ) -> FeatureRows:
        """As :meth:`FeatureReader.rows`. Raises the same errors, also for what an owner does not publish."""
        owned: dict[str, dict[str, str]] = {}
        for view, version in views.items():
            if (owner := owner_of(view)) is not None:
                owned.setdefault(owner, {})[view.removeprefix(f"{owner}/")] = version
        if not owned:
            return super().rows(views, keys, as_of, minimum_publication)
        own = {view: version for view, version in views.items() if owner_of(view) is None}
        found = FeatureRows(0, ())
        if own or minimum_publication is not None:
            found = super().rows(own, keys, as_of, minimum_publication)
        away = found.catalog_away
        read: dict[str, tuple[SnapshotRows, list[EntityRow]]] = {one.view: (one, rows) for one, rows in found.views}
        for owner, requested in owned.items():
            others = self._owner(owner).rows(requested, keys, as_of)
            away = away or others.catalog_away
            for one, rows in others.views:
                named = self._named(owner, one)
                read[named.view] = (named, rows)
        return FeatureRows(found.publication, tuple(read[view] for view in views), away)

    def _named(self, owner: str, one: SnapshotRows) -> SnapshotRows:
        """The owner's rows under the name by which they are read here; what is kept of them is the same."""
        renamed = self._renamed.get(one)
        if renamed is None:
            renamed = copy.copy(one)
            renamed.view = f"{owner}/{one.view}"
            renamed.names = tuple(f"{owner}/{name}" for name in one.names)
            self._renamed[one] = renamed
        return renamed
