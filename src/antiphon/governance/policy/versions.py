"""Versions of policies: proposed, checked, approved by another person, and in force from then on.

Invariants: a version never changes; the last ``in_force`` move of a scope names the one that decides, the default
policies do while there is none. Nothing acts that does not parse, fails its cases or locks administrators out. Outside
of ``dev`` nobody approves what they wrote, whatever the policies in force say. Every move is audited with it.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import func, insert, select
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.governance.policy.document import PolicyDocument
from antiphon.governance.policy.validation import check

State = Literal["proposed", "in_force", "superseded", "rejected"]

DEVELOPMENT = "dev"
"""The environment in which one person may be author and approver."""

_SCHEMA = "policy-document/1"
_decoder = msgspec.json.Decoder(PolicyDocument)


class PolicyVersion(msgspec.Struct, frozen=True):
    """One version. ``number`` counts per scope from 1; ``decided_by`` moved it last, ``reason`` says why."""

    scope: Scope
    number: int
    digest: str
    document: PolicyDocument
    state: State
    author: str
    rationale: str
    created_at: datetime
    decided_by: str | None
    reason: str
    decided_at: datetime | None


class PolicySets:
    """Repository of versions of policies and their moves. Rows are only ever added, and ``audit`` (``AuditLog.append``)
    records each act in the transaction that did it."""

    def __init__(self, database: Database, audit: Callable[..., Any]) -> None:
        self._database = database
        self._audit = audit

    def propose(self, scope: Scope, document: PolicyDocument, *, principal: str, rationale: str) -> PolicyVersion:
        """Keep a version for somebody to approve.

        Raises:
            InvalidInputError: it does not parse or fit the schema, fails a case, locks administrators out, or no
                rationale is given; every problem is named.
            ConflictError: these very policies are in force already.
        """
        if not rationale.strip():
            raise InvalidInputError(
                "Policies need a rationale.", where="rationale", next_step="Say why, with --reason."
            )
        self._check(scope, document)
        with self._database.transaction() as connection:
            now = self.in_force(scope, within=connection)
            if now is not None and now.document == document:
                raise ConflictError(
                    f"The policies are in force already, as version {now.number}.",
                    where="policy",
                    next_step="There is nothing to do.",
                )
            number = self._last(connection, schema.policy_versions.c.number, scope) + 1
            sealed = self._database.seal(scope, _SCHEMA, str(number), msgspec.json.encode(document))
            connection.execute(
                insert(schema.policy_versions).values(
                    tenant=scope.tenant,
                    environment=scope.environment,
                    number=number,
                    digest=document.digest,
                    document=sealed,
                    author=principal,
                    rationale=rationale,
                    created_at=self._now(),
                )
            )
            self._move(connection, scope, number, "proposed", principal, rationale)
            detail = {"number": number, "digest": document.digest, "rationale": rationale}
            self._audit(scope, principal, "policy.propose", f"policy/{number}", detail, within=connection)
            return self.get(scope, number, within=connection)

    def approve(self, scope: Scope, number: int, *, principal: str, reason: str) -> PolicyVersion:
        """Put a version in force: everywhere within the lease of :class:`LivePolicies`. An older one goes back to it.

        Raises:
            NotFoundError: there is no such version.
            ForbiddenError: it is the approver's own, outside of ``dev``.
            ConflictError: it was rejected or is in force.
            InvalidInputError: by the present schema and cases it may not act.
        """
        found = self.get(scope, number)
        self._check(scope, found.document)
        with self._database.transaction() as connection:
            found = self.get(scope, number, within=connection)
            if found.author == principal and scope.environment != DEVELOPMENT:
                raise ForbiddenError(
                    f"Version {number} was written by {principal}: another person must approve it.",
                    where="policy",
                    next_step=f"Ask another administrator to run `antiphon policy approve {number} --reason …`.",
                )
            if found.state in ("rejected", "in_force"):
                raise ConflictError(
                    f"Version {number} is {found.state.replace('_', ' ')}.",
                    where="policy",
                    next_step="See `antiphon policy list`; propose the policies again if they are to act after all.",
                )
            before = self.in_force(scope, within=connection)
            if before is not None:
                self._move(connection, scope, before.number, "superseded", principal, f"version {number} is in force")
            self._move(connection, scope, number, "in_force", principal, reason)
            detail = {
                "number": number,
                "digest": found.digest,
                "author": found.author,
                "previous": None if before is None else before.digest,
                "reason": reason,
            }
            self._audit(scope, principal, "policy.approve", f"policy/{number}", detail, within=connection)
            return self.get(scope, number, within=connection)

    def reject(self, scope: Scope, number: int, *, principal: str, reason: str) -> PolicyVersion:
        """Refuse a proposal for good.

        Raises:
            NotFoundError: there is no such version.
            ConflictError: it is no proposal any more.
        """
        with self._database.transaction() as connection:
            found = self.get(scope, number, within=connection)
            if found.state != "proposed":
                raise ConflictError(
                    f"Version {number} is {found.state.replace('_', ' ')}, no proposal.",
                    where="policy",
                    next_step="See `antiphon policy list`.",
                )
            self._move(connection, scope, number, "rejected", principal, reason)
            detail = {"number": number, "digest": found.digest, "reason": reason}
            self._audit(scope, principal, "policy.reject", f"policy/{number}", detail, within=connection)
            return self.get(scope, number, within=connection)

    def get(self, scope: Scope, number: int, *, within: Connection | None = None) -> PolicyVersion:
        """One version.

        Raises:
            NotFoundError: there is none of this number here.
        """
        with self._database.reading(within) as connection:
            found = self._select(connection, scope, number)
        if not found:
            raise NotFoundError(
                f"There is no version {number} of the policies.",
                where=str(scope),
                next_step="See `antiphon policy list`; until one is approved the default policies decide.",
            )
        return found[0]

    def list(self, scope: Scope, limit: int = 100) -> builtins.list[PolicyVersion]:
        """Versions, latest first."""
        with self._database.read() as connection:
            return self._select(connection, scope, None, limit)

    def in_force(self, scope: Scope, *, within: Connection | None = None) -> PolicyVersion | None:
        """The version that decides; ``None`` while the default policies do."""
        with self._database.reading(within) as connection:
            number = self._in_force(connection, scope)
            return None if number is None else self._select(connection, scope, number)[0]

    def in_force_number(self, scope: Scope) -> int | None:
        """The number of the version that decides: what a lease is renewed with."""
        with self._database.read() as connection:
            return self._in_force(connection, scope)

    def _check(self, scope: Scope, document: PolicyDocument) -> None:
        checked = check(document, tenant=scope.tenant, environment=scope.environment)
        if not checked.sound:
            raise InvalidInputError(
                f"The policies may not act: {'; '.join(checked.problems)}.",
                where="policy",
                next_step="Mend them; `antiphon policy check` and `antiphon policy test` show the same.",
            )

    def _in_force(self, connection: Connection, scope: Scope) -> int | None:
        moves = schema.policy_moves
        number = connection.execute(
            select(moves.c.number)
            .where(schema.owned(moves, scope), moves.c.state == "in_force")
            .order_by(moves.c.sequence.desc())
            .limit(1)
        ).scalar()
        return None if number is None else int(number)

    def _last(self, connection: Connection, column: Any, scope: Scope) -> int:
        found = connection.execute(select(func.max(column)).where(schema.owned(column.table, scope))).scalar()
        return int(found or 0)

    def _move(
        self, connection: Connection, scope: Scope, number: int, state: State, principal: str, reason: str
    ) -> None:
        moves = schema.policy_moves
        connection.execute(
            insert(moves).values(
                tenant=scope.tenant,
                environment=scope.environment,
                sequence=self._last(connection, moves.c.sequence, scope) + 1,
                number=number,
                state=state,
                principal=principal,
                reason=reason,
                at=self._now(),
            )
        )

    def _select(
        self, connection: Connection, scope: Scope, number: int | None, limit: int = 1
    ) -> builtins.list[PolicyVersion]:
        versions, moves = schema.policy_versions, schema.policy_moves
        last = (
            select(moves.c.number, func.max(moves.c.sequence).label("sequence"))
            .where(schema.owned(moves, scope))
            .group_by(moves.c.number)
            .subquery()
        )
        statement = (
            select(versions, moves.c.state, moves.c.principal, moves.c.reason, moves.c.at)
            .join(last, last.c.number == versions.c.number)
            .join(moves, schema.owned(moves, scope) & (moves.c.sequence == last.c.sequence))
            .where(schema.owned(versions, scope))
            .order_by(versions.c.number.desc())
            .limit(limit)
        )
        if number is not None:
            statement = statement.where(versions.c.number == number)
        return [self._version(scope, row) for row in connection.execute(statement)]

    def _version(self, scope: Scope, row: Row[Any]) -> PolicyVersion:
        content = self._database.unseal(scope, _SCHEMA, str(row.number), row.document)
        decided = row.state != "proposed"
        return PolicyVersion(
            scope=scope,
            number=row.number,
            digest=row.digest,
            document=_decoder.decode(content),
            state=row.state,
            author=row.author,
            rationale=row.rationale,
            created_at=from_microseconds(row.created_at),
            decided_by=row.principal if decided else None,
            reason=row.reason if decided else "",
            decided_at=from_microseconds(row.at) if decided else None,
        )

    def _now(self) -> int:
        return microseconds(self._database.clock.now())
