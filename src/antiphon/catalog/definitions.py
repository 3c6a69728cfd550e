"""Definition versions of feature views, and the projects that were applied."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import NotFoundError
from antiphon.core.ids import canonical, content_hash
from antiphon.core.scope import Scope

if TYPE_CHECKING:
    from antiphon.definitions.feature_view import FeatureViewSpec
    from antiphon.definitions.project import ProjectSpec

_VIEW, _PROJECT = "view/1", "project/1"


class DefinitionVersions:
    """Repository of feature view definitions, each kept under its semantic hash."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, scope: Scope, spec: FeatureViewSpec, *, within: Connection | None = None) -> None:
        """Keep a definition. What differs without meaning (a comment, an owner) replaces what was kept."""
        statement = upsert(schema.definition_versions).values(
            tenant=scope.tenant,
            environment=scope.environment,
            view=spec.name,
            version=spec.definition_version,
            document=self._database.seal(
                scope, _VIEW, f"{spec.name}:{spec.definition_version}", msgspec.json.encode(spec)
            ),
            created_at=microseconds(self._database.clock.now()),
        )
        statement = statement.on_conflict_do_update(set_={"document": statement.excluded.document})
        with self._database.writing(within) as connection:
            connection.execute(statement)

    def get(self, scope: Scope, view: str, version: str, *, within: Connection | None = None) -> FeatureViewSpec:
        """One definition.

        Raises:
            NotFoundError: this version was never applied here.
        """
        table = schema.definition_versions
        with self._database.reading(within) as connection:
            document = connection.execute(
                select(table.c.document).where(
                    schema.owned(table, scope), table.c.view == view, table.c.version == version
                )
            ).scalar()
        if document is None:
            raise NotFoundError(
                f"There is no definition {view}@{version}.", where=str(scope), next_step="Run `antiphon apply`."
            )
        return _decode_view(self._database.unseal(scope, _VIEW, f"{view}:{version}", document))

    def list(self, scope: Scope, view: str | None = None, *, within: Connection | None = None) -> list[FeatureViewSpec]:
        """Definitions by view, then latest first."""
        table = schema.definition_versions
        statement = select(table.c.view, table.c.version, table.c.document).where(schema.owned(table, scope))
        if view is not None:
            statement = statement.where(table.c.view == view)
        statement = statement.order_by(table.c.view, table.c.created_at.desc(), table.c.version)
        with self._database.reading(within) as connection:
            return [
                _decode_view(self._database.unseal(scope, _VIEW, f"{row.view}:{row.version}", row.document))
                for row in connection.execute(statement)
            ]


class AppliedProject(msgspec.Struct, frozen=True):
    """A project as it was applied, the ``number``-th time in this scope."""

    scope: Scope
    number: int
    project: ProjectSpec
    content_hash: str
    principal: str
    created_at: datetime


class AppliedProjects:
    """Repository of applied projects: what is declared in an environment, and what was before."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def apply(
        self, scope: Scope, project: ProjectSpec, *, principal: str, within: Connection | None = None
    ) -> AppliedProject:
        """Record a project and its views' definitions; returns the current one when nothing changed."""
        digest = content_hash(project)
        with self._database.writing(within) as connection:
            current = self.current(scope, within=connection)
            if current is not None and current.content_hash == digest:
                return current
            definitions = DefinitionVersions(self._database)
            for view in project.views.values():
                definitions.put(scope, view, within=connection)
            number = 1 if current is None else current.number + 1
            now = microseconds(self._database.clock.now())
            connection.execute(
                insert(schema.applied_projects).values(
                    tenant=scope.tenant,
                    environment=scope.environment,
                    number=number,
                    name=project.name,
                    content_hash=digest,
                    document=self._database.seal(scope, _PROJECT, str(number), canonical(project)),
                    principal=principal,
                    created_at=now,
                )
            )
        return AppliedProject(scope, number, project, digest, principal, from_microseconds(now))

    def current(self, scope: Scope, *, within: Connection | None = None) -> AppliedProject | None:
        """The project last applied, ``None`` before the first."""
        found = self.list(scope, limit=1, within=within)
        return found[0] if found else None

    def list(self, scope: Scope, limit: int = 20, *, within: Connection | None = None) -> list[AppliedProject]:
        """Applied projects, latest first."""
        from antiphon.definitions.project import ProjectSpec

        table = schema.applied_projects
        statement = select(table).where(schema.owned(table, scope)).order_by(table.c.number.desc()).limit(limit)
        with self._database.reading(within) as connection:
            return [
                AppliedProject(
                    scope=scope,
                    number=row.number,
                    project=msgspec.json.decode(
                        self._database.unseal(scope, _PROJECT, str(row.number), row.document), type=ProjectSpec
                    ),
                    content_hash=row.content_hash,
                    principal=row.principal,
                    created_at=from_microseconds(row.created_at),
                )
                for row in connection.execute(statement)
            ]


def _decode_view(document: bytes) -> FeatureViewSpec:
    from antiphon.definitions.feature_view import FeatureViewSpec

    return msgspec.json.decode(document, type=FeatureViewSpec)
