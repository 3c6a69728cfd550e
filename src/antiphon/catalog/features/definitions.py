"""Definition versions of feature views, and the projects that were applied."""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import row_of, value_of
from antiphon.core.clock import utc
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
        subject = f"{spec.name}:{spec.definition_version}"
        statement = upsert(schema.definition_versions).values(
            tenant=scope.tenant,
            environment=scope.environment,
            view=spec.name,
            version=spec.definition_version,
            document=self._database.seal(scope, _VIEW, subject, msgspec.json.encode(spec)),
            created_at=self._database.clock.now(),
        )
        self._database.write(statement.on_conflict_do_update(set_={"document": statement.excluded.document}), within)

    def get(self, scope: Scope, view: str, version: str, *, within: Connection | None = None) -> FeatureViewSpec:
        """One definition.

        Raises:
            NotFoundError: this version was never applied here.
        """
        found = self._select(scope, within, view=view, version=version)
        if not found:
            raise NotFoundError(
                f"There is no definition {view}@{version}.", where=str(scope), next_step="Run `antiphon apply`."
            )
        return found[0]

    def of(self, scope: Scope, key: str) -> FeatureViewSpec:
        """The definition of ``view@definition_version``; raises as :meth:`get`."""
        view, _, version = key.partition("@")
        return self.get(scope, view, version)

    def list(self, scope: Scope, view: str | None = None) -> list[FeatureViewSpec]:
        """Definitions by view, then latest first."""
        return self._select(scope, None, view=view)

    def _select(self, scope: Scope, within: Connection | None, **of: str | None) -> builtins.list[FeatureViewSpec]:
        from antiphon.definitions.feature_view import FeatureViewSpec

        table = schema.definition_versions
        statement = select(table.c.view, table.c.version, table.c.document).where(
            schema.owned(table, scope), *schema.given(table, **of)
        )
        statement = statement.order_by(table.c.view, table.c.created_at.desc(), table.c.version)
        with self._database.reading(within) as connection:
            return [
                msgspec.json.decode(
                    self._database.unseal(scope, _VIEW, f"{row.view}:{row.version}", row.document), type=FeatureViewSpec
                )
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
            now = utc(self._database.clock.now())
            made = AppliedProject(scope, number, project, digest, principal, now)
            document = self._database.seal(scope, _PROJECT, str(number), canonical(project))
            row = row_of(schema.applied_projects, made, name=project.name, document=document)
            connection.execute(insert(schema.applied_projects).values(row))
            self._database.ring("features", scope)
        return made

    def current(self, scope: Scope, *, within: Connection | None = None) -> AppliedProject | None:
        """The project last applied, ``None`` before the first."""
        found = self.list(scope, limit=1, within=within)
        return found[0] if found else None

    def project(self, scope: Scope, *, within: Connection | None = None) -> ProjectSpec:
        """The declarations last applied; none before the first."""
        from antiphon.definitions.project import ProjectSpec

        current = self.current(scope, within=within)
        return ProjectSpec("", {}, {}, {}) if current is None else current.project

    def list(self, scope: Scope, limit: int = 20, *, within: Connection | None = None) -> list[AppliedProject]:
        """Applied projects, latest first."""
        from antiphon.definitions.project import ProjectSpec

        def opened(row: Row[Any]) -> AppliedProject:
            document = self._database.unseal(scope, _PROJECT, str(row.number), row.document)
            return value_of(AppliedProject, row, project=msgspec.json.decode(document, type=ProjectSpec))

        table = schema.applied_projects
        statement = select(table).where(schema.owned(table, scope)).order_by(table.c.number.desc()).limit(limit)
        with self._database.reading(within) as connection:
            return [opened(row) for row in connection.execute(statement)]
