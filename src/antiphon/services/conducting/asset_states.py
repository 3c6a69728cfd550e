"""The state of one project's assets, read from its catalog and its files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.asset_parts import PartRecord
from antiphon.core.errors import AntiphonError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.assets import Asset, AssetGraph, AssetPart
from antiphon.definitions.objects import ObjectPath, is_objects
from antiphon.definitions.project import ProjectSpec
from antiphon.durable.run import ENDED, Run
from antiphon.orchestration.conductor.assets import PartState, assess
from antiphon.services.conducting.file_versions import file_version, object_versions
from antiphon.services.export.rows import latest_day
from antiphon.services.project.feature_stores import object_store
from antiphon.services.project.store import Store
from antiphon.services.workflows import USER_WORKFLOWS

_log = logging.getLogger(__name__)

_SUCCEEDED = ("succeeded", "succeeded_with_failures")


class AssetStates(msgspec.Struct, frozen=True):
    """The graph of assets, and the state of each part as of an instant, inputs first."""

    at: datetime
    graph: AssetGraph
    states: dict[AssetPart, PartState]


def asset_states(store: Store, scope: Scope, project: ProjectSpec) -> AssetStates:
    """The state of every asset of declarations as of now; nothing is written."""
    graph, now = asset_graph_of(store, project), store.database.clock.now()
    records = {AssetPart(one.asset, one.partition): one for one in _records(store, scope)}
    versions: dict[AssetPart, str] = {}
    unread: dict[str, str] = {}
    for asset in graph.assets.values():
        if asset.kind == "evaluation":
            part = AssetPart(asset.key)
            if (measured := _evaluation(store, scope, asset, records.get(part))) is not None:
                records[part] = measured
        elif asset.kind == "file" and is_objects(asset.name):
            versions.update(_objects(store, asset, now, unread))
        elif asset.schedule is None:
            versions.update(_versions(store, scope, asset, now))
    return AssetStates(now, graph, assess(graph, now, versions, records, unread))


def asset_graph_of(store: Store, project: ProjectSpec) -> AssetGraph:
    """The graph of declarations; files of the project are named from its folder."""
    return project.assets(_folder(store))


def settle(store: Store, scope: Scope) -> None:
    """Note how the orders of parts ended whose runs have ended since."""
    for record in store.asset_parts.list(scope, unsettled=True):
        if _settled(store, scope, record) == record:
            continue
        # A run that is queued again meanwhile has not ended.
        with store.database.transaction() as connection:
            if (ended := _settled(store, scope, record, connection)) != record:
                store.asset_parts.settle(scope, ended, within=connection)


def _folder(store: Store) -> Path:
    return (store.paths.root / store.settings.project.definitions).resolve().parent


def _records(store: Store, scope: Scope) -> Iterator[PartRecord]:
    for record in store.asset_parts.list(scope):
        yield record if record.outcome is not None else _settled(store, scope, record)


def _settled(store: Store, scope: Scope, record: PartRecord, within: Connection | None = None) -> PartRecord:
    """The record as the end of its run makes it; as it is while the run has not ended."""
    try:
        run = store.runs.get(scope, record.run, within=within)
    except NotFoundError:
        return record.settled("cancelled", None, store.database.clock.now())
    if run.status not in ENDED:
        return record
    version = _version(store, scope, run) if run.status in _SUCCEEDED else None
    return record.settled(run.status, version, run.ended_at or run.updated_at)


def _version(store: Store, scope: Scope, run: Run) -> str:
    """The version of what a run made: of a workflow a hash of what it returned, otherwise the run."""
    returned = (run.result or {}).get("result") if run.workflow in USER_WORKFLOWS.values() else None
    if returned is None:
        return run.id
    return store.database.codec.index(content_hash(returned)[:32], scope, "asset-version")


def _evaluation(store: Store, scope: Scope, asset: Asset, order: PartRecord | None) -> PartRecord | None:
    """The latest evaluation of an application's live release, else of any, with what was ordered since."""
    live = store.releases.live(scope, asset.name)
    latest = None if live is None else store.evaluations.latest(scope, live.id)
    if latest is None:  # A candidate that was measured since says nothing of what is live.
        latest = next(iter(store.evaluations.list(scope, asset.name, limit=1)), None)
    if latest is None:
        return order
    made_of = {f"release/{asset.name}": latest.release}
    at = latest.created_at
    base = order or PartRecord(asset.key, "", "", made_of, "", at, "succeeded", at)
    return msgspec.structs.replace(
        base, version=latest.id, made_by=None, made_inputs=made_of, made_definition="", made_at=at
    )


def _versions(store: Store, scope: Scope, asset: Asset, now: datetime) -> Iterator[tuple[AssetPart, str]]:
    """The versions of the parts of an asset that no schedule makes, as far as they are there."""
    if asset.kind == "file":
        folder = _folder(store)
        for part in asset.parts(now):
            if (version := file_version(folder, asset.file(part.partition))) is not None:
                yield part, version
        return
    found = _external(store, scope, asset)
    if found is not None:
        yield AssetPart(asset.key), found


def _objects(store: Store, asset: Asset, now: datetime, unread: dict[str, str]) -> Iterator[tuple[AssetPart, str]]:
    """The versions of the parts of objects of a store; of one that does not answer none, and why in ``unread``."""
    bucket = ObjectPath.of(asset.name).bucket
    why = next((text for key, text in unread.items() if ObjectPath.of(key.partition("/")[2]).bucket == bucket), None)
    try:
        # A store that is away is asked once in a look, for each of the others would wait for it as long.
        found = {} if why is not None else object_versions(asset, object_store(store.settings.features))
    except AntiphonError as error:
        _log.warning("%s", error)
        found, why = {}, error.what
    if why is not None:
        unread[asset.key] = why
    for part in asset.parts(now):
        if part.partition in found:
            yield part, found[part.partition]


def _external(store: Store, scope: Scope, asset: Asset) -> str | None:
    match asset.kind:
        case "view":
            snapshot = store.publications.snapshots(scope).get(f"{asset.name}@{asset.definition}")
            manifest = store.snapshots.find(scope, snapshot)
            # By the file of its values, not by its moment: a refresh that found nothing new makes nothing stale.
            return snapshot if manifest is None else manifest.files[-1].sha256[:32]
        case "predictions":
            return latest_day(store.database.clock.now())
        case "release":
            live = store.releases.live(scope, asset.name)
            return None if live is None else live.id
        case "model":
            live = store.releases.live(scope, asset.name)
            return None if live is None else live.bundle.model.version
        case "dataset":
            name, _, kind = asset.name.partition("/")
            found = store.datasets.list(scope, name, limit=20)
            return next((one.id for one in found if one.spec.kind == kind), None)
    return None
