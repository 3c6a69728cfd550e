"""Releases: immutable bundles, the stages they enter, and the pointer to the live one.

Invariant: stages and pointers are sequences that only grow, so what was live at any time is always answerable.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, func, insert, select, true
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rows import missing, next_moment, row_of, value_of
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.ids import canonical, content_hash, new_id
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec

Stage = Literal["draft", "validated", "shadow", "canary", "live", "retired", "rolled_back"]


class ModelPin(msgspec.Struct, frozen=True):
    """The model a release serves: its name and the SHA-256 of its weights (``None`` for a remote engine).

    ``version`` is the registered model version (``catalog.models``) when it was trained here, ``purposes`` what it was
    then trained for; ``None``: it was not trained here. Of a model that another tenant grants, the name is
    ``OWNER/APPLICATION.vN`` and ``version`` is ``None``.
    """

    name: str
    weights_sha256: str | None
    version: str | None = None
    purposes: tuple[str, ...] | None = None

    def served_name(self, tenant: str) -> str:
        """The name by which engines serve it to a release of this tenant: of a version with the tenant, for two tenants
        may have versions of one name."""
        return self.name if self.version is None else f"{tenant}/{self.version}"


class Bundle(msgspec.Struct, frozen=True):
    """All that an answer is made from, as one value. Its canonical hash is its identity."""

    application: ApplicationSpec
    model: ModelPin
    policy_digest: str


class Release(msgspec.Struct, frozen=True):
    """A bundle with its history. ``number`` counts per application from 1."""

    id: str
    scope: Scope
    number: int
    bundle: Bundle
    content_hash: str
    stage: Stage
    author: str
    rationale: str
    created_at: datetime


class StageMove(msgspec.Struct, frozen=True):
    """A release entering a stage."""

    release: str
    sequence: int
    stage: Stage
    principal: str
    reason: str
    at: datetime


class Activation(msgspec.Struct, frozen=True):
    """One move of an application's live pointer."""

    application: str
    sequence: int
    release: str
    action: Literal["activate", "rollback"]
    principal: str
    reason: str
    at: datetime


_SCHEMA = "release/1"
_bundle = msgspec.json.Decoder(Bundle)


class Releases:
    """Repository of releases, their stages and the live pointers. Rows are only ever added."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, bundle: Bundle, scope: Scope, author: str, rationale: str, *, within: Connection | None = None
    ) -> Release:
        """Record a bundle as the application's next release, as a draft; a known bundle gives its own release."""
        digest = content_hash(bundle)
        application = bundle.application.name
        table = schema.releases
        of_application = schema.owned(table, scope, application=application)
        with self._database.writing(within) as connection:
            known = connection.execute(
                select(table.c.id).where(of_application, table.c.content_hash == digest)
            ).scalar()
            if known is not None:
                return self.get(scope, known, within=connection)
            highest = connection.execute(select(func.max(table.c.number)).where(of_application)).scalar()
            release = new_id("rel")
            connection.execute(
                insert(table).values(
                    tenant=scope.tenant,
                    environment=scope.environment,
                    id=release,
                    application=application,
                    number=(highest or 0) + 1,
                    content_hash=digest,
                    bundle=self._database.seal(scope, _SCHEMA, release, canonical(bundle)),
                    author=author,
                    rationale=rationale,
                    created_at=self._database.clock.now(),
                )
            )
            self.set_stage(scope, release, "draft", principal=author, reason=rationale, within=connection)
            return self.get(scope, release, within=connection)

    def get(self, scope: Scope, release: str, *, within: Connection | None = None) -> Release:
        """One release.

        Raises:
            NotFoundError: there is none of this id here.
        """
        found = self._select(scope, within, id=release)
        if not found:
            raise missing("release", release, scope, "See `antiphon releases list`.")
        return found[0]

    def list(self, scope: Scope, application: str | None = None) -> list[Release]:
        """Releases by application, latest first."""
        return self._select(scope, None, application=application)

    def set_stage(
        self,
        scope: Scope,
        release: str,
        stage: Stage,
        *,
        principal: str,
        reason: str,
        again: bool = False,
        within: Connection | None = None,
    ) -> StageMove:
        """Record that a release entered a stage; entering the stage it is in changes nothing, unless ``again``."""
        with self._database.writing(within) as connection:
            moves = self.stages(scope, release, within=connection)
            if moves and moves[-1].stage == stage and not again:
                return moves[-1]
            at = next_moment(self._database.clock, moves)
            move = StageMove(release, len(moves) + 1, stage, principal, reason, at)
            connection.execute(insert(schema.release_stages).values(row_of(schema.release_stages, move, scope)))
            self._database.ring("releases", scope)
        return move

    def stages(self, scope: Scope, release: str, *, within: Connection | None = None) -> builtins.list[StageMove]:
        """Every stage the release entered, first to last."""
        table = schema.release_stages
        statement = select(table).where(schema.owned(table, scope, release=release)).order_by(table.c.sequence)
        return [value_of(StageMove, row) for row in self._database.rows(statement, within)]

    def activate(
        self,
        scope: Scope,
        application: str,
        release: str,
        principal: str,
        reason: str,
        *,
        within: Connection | None = None,
    ) -> Activation:
        """Make a release the live one; the one before is retired. Activating the live one changes nothing.

        Raises:
            NotFoundError: the application has no such release.
        """
        with self._database.writing(within) as connection:
            if self.get(scope, release, within=connection).bundle.application.name != application:
                raise NotFoundError(
                    f"The release {release!r} is not one of {application!r}.",
                    where=str(scope),
                    next_step=f"See `antiphon releases list {application}`.",
                )
            history = self.history(scope, application, within=connection)
            if history and history[-1].release == release:
                return history[-1]
            if history:
                why = f"{release} went live: {reason}"
                self.set_stage(
                    scope, history[-1].release, "retired", principal=principal, reason=why, within=connection
                )
            return self._point(connection, scope, application, release, "activate", principal, reason, history)

    def rollback(
        self, scope: Scope, application: str, principal: str, reason: str, *, within: Connection | None = None
    ) -> Activation:
        """Make the release that was live before the live one live again; repeated, it goes further back.

        Raises:
            ConflictError: nothing was live before.
        """
        with self._database.writing(within) as connection:
            history = self.history(scope, application, within=connection)
            stack = activation_stack(history)
            if len(stack) < 2:
                raise ConflictError(
                    f"{application!r} has no earlier live release.",
                    where=str(scope),
                    next_step=f"Activate one of `antiphon releases list {application}`.",
                )
            self.set_stage(scope, stack[-1], "rolled_back", principal=principal, reason=reason, within=connection)
            return self._point(connection, scope, application, stack[-2], "rollback", principal, reason, history)

    def live(self, scope: Scope, application: str, *, within: Connection | None = None) -> Release | None:
        """The live release, ``None`` when none was activated."""
        return self._pointed(scope, application, true(), within)

    def live_at(self, scope: Scope, application: str, moment: datetime) -> Release | None:
        """The release that was live at an instant of wall time. Its ``stage`` is today's."""
        return self._pointed(scope, application, schema.release_pointers.c.at <= moment, None)

    def history(self, scope: Scope, application: str, *, within: Connection | None = None) -> builtins.list[Activation]:
        """Every move of the live pointer, first to last."""
        table = schema.release_pointers
        statement = select(table).where(schema.owned(table, scope, application=application)).order_by(table.c.sequence)
        return [value_of(Activation, row) for row in self._database.rows(statement, within)]

    def applications(self, scope: Scope, *, within: Connection | None = None) -> builtins.list[str]:
        """Names of the applications that have a live release."""
        table = schema.release_pointers
        statement = select(table.c.application).where(schema.owned(table, scope)).distinct()
        return sorted(row.application for row in self._database.rows(statement, within))

    def live_ones(self, scope: Scope) -> builtins.list[Release]:
        """The live release of every application that has one, by application."""
        table = schema.release_pointers
        moves = select(table.c.application, func.max(table.c.sequence).label("sequence"))
        last = moves.where(schema.owned(table, scope)).group_by(table.c.application).subquery()
        is_last = (last.c.application == table.c.application) & (last.c.sequence == table.c.sequence)
        pointed = select(table.c.release).join(last, is_last).where(schema.owned(table, scope))
        return self._select(scope, None, schema.releases.c.id.in_(pointed))

    def _pointed(
        self, scope: Scope, application: str, condition: ColumnElement[bool], within: Connection | None
    ) -> Release | None:
        table = schema.release_pointers
        pointed = select(table.c.release).where(schema.owned(table, scope, application=application), condition)
        with self._database.reading(within) as connection:
            release = connection.execute(pointed.order_by(table.c.sequence.desc()).limit(1)).scalar()
            return None if release is None else self.get(scope, release, within=connection)

    def _point(
        self,
        connection: Connection,
        scope: Scope,
        application: str,
        release: str,
        action: Literal["activate", "rollback"],
        principal: str,
        reason: str,
        history: Sequence[Activation],
    ) -> Activation:
        at = next_moment(self._database.clock, history)
        move = Activation(application, len(history) + 1, release, action, principal, reason, at)
        connection.execute(insert(schema.release_pointers).values(row_of(schema.release_pointers, move, scope)))
        self.set_stage(scope, release, "live", principal=principal, reason=reason, within=connection)
        return move

    def _select(
        self, scope: Scope, within: Connection | None, *conditions: ColumnElement[bool], **of: str | None
    ) -> builtins.list[Release]:
        releases, stages = schema.releases, schema.release_stages
        latest = (
            select(stages.c.stage)
            .where(
                stages.c.tenant == releases.c.tenant,
                stages.c.environment == releases.c.environment,
                stages.c.release == releases.c.id,
            )
            .order_by(stages.c.sequence.desc())
            .limit(1)
            .scalar_subquery()
        )
        statement = (
            select(releases, latest.label("stage"))
            .where(schema.owned(releases, scope), *schema.given(releases, **of), *conditions)
            .order_by(releases.c.application, releases.c.number.desc())
        )
        with self._database.reading(within) as connection:
            return [self._release(row) for row in connection.execute(statement)]

    def _release(self, row: Row[Any]) -> Release:
        bundle = self._database.unseal(Scope(row.tenant, row.environment), _SCHEMA, row.id, row.bundle)
        return value_of(Release, row, bundle=_bundle.decode(bundle))


def activation_stack(history: Sequence[Activation]) -> list[str]:
    """The releases one can roll back through, the live one last: an activation adds one, a rollback removes one."""
    stack: list[str] = []
    for move in history:
        if move.action == "rollback":
            stack.pop()
        else:
            stack.append(move.release)
    return stack
