"""Defences that hold among several processes, switched off one by one for the harness to find."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import update

from antiphon.catalog import schema
from antiphon.catalog.features.publications import Publication
from antiphon.core.scope import Scope
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store

_GAP = 0.4
"""Seconds between two steps that belong together."""


def switch_off(name: str | None, platform: FeaturePlatform, store: Store) -> None:
    """Break this process's platform in one place; ``None`` breaks nothing.

    Raises:
        ValueError: there is no such defence.
    """
    if name is None:
        return
    if name not in BROKEN:
        raise ValueError(f"There is no defence {name!r}; there are {', '.join(BROKEN)}.")
    BROKEN[name](platform, store)


def _written_over(platform: FeaturePlatform, store: Store) -> None:
    """A publication is read, changed and written, whatever came between."""
    publications: Any = store.publications
    database = store.database

    def publish(scope: Scope, changes: Mapping[str, str | None], *, expected: int, **said: Any) -> Publication:
        seen = publications.latest(scope)
        merged = {**(seen.snapshots if seen is not None else {}), **changes}
        time.sleep(_GAP)
        with database.writing(said.get("within")) as connection:
            now = publications.latest(scope, within=connection)
            number = now.number if now is not None else 0
            made: Publication = publications._write(
                connection, scope, number + 1, number, {key: one for key, one in merged.items() if one is not None},
                said["reason"], said["principal"],
            )  # fmt: skip
        return made

    publications.publish = publish


def _publications_unpinned(platform: FeaturePlatform, store: Store) -> None:
    """A pruning gives up what is published as well."""
    pruner: Any = platform.pruner

    def prune(scope: Scope, snapshots: Collection[str], keep: int) -> list[str]:
        table = schema.snapshots
        gone = [one.id for one in store.snapshots.list(scope, limit=1_000, pruned=False)][1::2]
        with store.database.transaction() as connection:
            now = store.database.clock.now()
            connection.execute(
                update(table).where(schema.owned(table, scope), table.c.id.in_(gone)).values(pruned_at=now)
            )
        return gone

    pruner.catalog.snapshots.prune = prune


def _datasets_unpinned(platform: FeaturePlatform, store: Store) -> None:
    """A collection does not know that datasets name files."""
    publisher: Any = platform.publisher
    publisher.also_named = store.verdicts.files


def _unsynced(platform: FeaturePlatform, store: Store) -> None:
    """Files are not synced before the catalog names them."""
    vars(os)["fsync"] = lambda descriptor: None


BROKEN: dict[str, Callable[[FeaturePlatform, Store], None]] = {
    "written-over": _written_over,
    "publications-unpinned": _publications_unpinned,
    "datasets-unpinned": _datasets_unpinned,
    "unsynced": _unsynced,
}
