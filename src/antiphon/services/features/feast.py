"""Feast's feature server as a project's settings declare it, and who reads it."""

from __future__ import annotations

import os

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.core.tls import client_tls
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.project import ProjectSpec
from antiphon.features.feast.reader import SNAPSHOT, FeastReader
from antiphon.features.feast.server import FeastServer
from antiphon.features.online.lookup import FeatureReader
from antiphon.services.project.store import Store


def server(store: Store) -> FeastServer | None:
    """The server; ``None`` when there is none. Connecting happens with the first request.

    Raises:
        InvalidInputError: a URL that is not called, or a token variable that is not set.
    """
    feast = store.settings.feast
    if feast.url is None:
        return None
    token = None
    if feast.token_variable is not None:
        token = os.environ.get(feast.token_variable)
        if not token:
            raise InvalidInputError(
                f"The environment variable {feast.token_variable} is not set.",
                where="antiphon.toml, [feast] token_variable",
                next_step="Set it where the gateway and the worker start.",
            )
    return FeastServer(
        feast.url,
        token=token,
        timeout=parse_duration(feast.timeout).total_seconds(),
        failures=feast.failures,
        retry=parse_duration(feast.retry).total_seconds(),
        tls=client_tls(store.paths.root, feast.authority, feast.client_certificate, feast.client_key),
    )


def reader(store: Store, scope: Scope, server_client: FeastServer, own: FeatureReader) -> FeastReader:
    """The reader of a scope that knows Feast's views."""
    return FeastReader(
        server_client,
        store.settings.feast.project,
        own=own,
        definitions=lambda view, version: store.definitions.get(scope, view, version),
    )


def snapshot_name(store: Store, view: FeatureViewSpec) -> str:
    """Returns the name that a receipt has in place of a snapshot."""
    return f"{SNAPSHOT}{store.settings.feast.project}/{view.source.feast}"


def require_servable(store: Store, project: ProjectSpec) -> None:
    """Refuse views of Feast that no server is named for, and contracts that what Feast keeps cannot be held against: an
    ``InvalidInputError`` that says which view."""
    named = {view.name for view in project.views.values() if view.source.kind == "feast"}
    if named and store.settings.feast.url is None:
        raise InvalidInputError(
            f"The view {min(named)!r} is read from Feast, and no server is named.",
            where="antiphon.toml, [feast]",
            next_step='Add url = "http://HOST:6566", where `feast serve` listens.',
        )
    for application in project.applications.values():
        for view, contract in application.freshness.items():
            if view in named and contract.min_source_quality > 0:
                raise InvalidInputError(
                    f"The freshness contract for {view!r} asks how good the source was, which Feast does not keep.",
                    where=f"application {application.name}",
                    next_step="Leave min_source_quality out of that contract.",
                )
