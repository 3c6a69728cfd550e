"""Append-only audit log: one Merkle tree (RFC 6962) per tenant and environment.

Invariants:
- A record's number, content and place are one transaction with what it records when the caller gives ``within``;
  whichever process appends, numbers have no gap.
- The head (size, peaks, newest checkpoint) is sealed under the server's secret. A head that does not hold is never
  extended: a damaged log is closed until somebody has looked at it.
- What was signed and witnessed cannot be changed by anybody without being found (``audit.verification``).
"""

from __future__ import annotations

import contextlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Unpack

import msgspec
from sqlalchemy import func, or_, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import driver_sql, position, utf8
from antiphon.core.clock import microseconds
from antiphon.core.errors import CorruptionError, InvalidInputError
from antiphon.core.ids import canonical
from antiphon.core.scope import Scope
from antiphon.governance.audit import record as audit_record
from antiphon.governance.audit.merkle import Kept, Node, Tree
from antiphon.governance.audit.record import Act, ActOptions, AuditEntry, AuditRow, Detail, act
from antiphon.governance.audit.rows import COLUMNS, insertion, loaded, of_user, shown

ERASE = "audit.erase"
_ERASED_AT_ONCE = 500
"""Records whose texts are erased in one transaction."""

"""The action that says how many identities were erased."""

MOST = 1_000
"""Records in one page of a query."""

_PEAK = 32

# Text, not expressions: these run for every record, and building and binding expressions costs more than SQLite does.
_HEAD = "SELECT size, peaks, checkpoint, seal FROM audit_heads WHERE tenant = ? AND environment = ?"
_KEEP = "INSERT INTO audit_nodes VALUES (?, ?, ?, ?, ?)"
_EXTEND = (
    "UPDATE audit_heads SET size = ?, peaks = ?, checkpoint = ?, seal = ? WHERE tenant = ? AND environment = ? "
    "AND seal = ? AND size = ? AND peaks = ? AND checkpoint = ?"
)
_MOVE = (
    "INSERT INTO audit_heads VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, environment) DO UPDATE SET "
    "size = excluded.size, peaks = excluded.peaks, checkpoint = excluded.checkpoint, seal = excluded.seal"
)


class Head(msgspec.Struct, frozen=True):
    """End of a scope's log. ``checkpoint`` is the newest signed one, as text; empty before the first."""

    tree: Tree
    checkpoint: str = ""


class AuditFilter(msgspec.Struct, frozen=True):
    """Conditions that a record meets.

    Attributes:
        who: a principal, or the originating user on whose behalf one acted.
        action: exactly this, or all that begin with it when it ends in ``*``: ``release.*``.
        subject: what it was done to; with ``*`` at its end, all that begin so.
        since, until: from this instant on; before this one.
        denied: only what was refused.
        before: records with a smaller sequence: the next page.
    """

    who: str | None = None
    action: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    denied: bool = False
    before: int | None = None
    limit: int = 50


class AuditLog:
    """Repository of audit records. The server's secret (``secret.load_secret``) seals the heads."""

    def __init__(self, database: Database, secret: bytes) -> None:
        self.database = database
        self._secret = secret
        # The heads that this process left. One that another process moved, that was undone or changed is not extended
        # by mistake: it is told by comparing the whole row while writing.
        self._left: dict[Scope, tuple[Head, tuple[Any, ...]]] = {}

    def append(
        self,
        scope: Scope,
        principal: str,
        action: str,
        subject: str,
        detail: Detail = None,
        *,
        within: Connection | None = None,
        **options: Unpack[ActOptions],
    ) -> None:
        """Record an act; on disk when this returns, or with the transaction of ``within``.

        Args:
            principal: who did it.
            detail: names of ``record.ALLOWED``; the values of others are left out.

        Raises:
            InvalidInputError: a name is too long.
            CorruptionError: the log's head is damaged.
        """
        one = self.act(scope, principal, action, subject, detail, **options)
        with self.database.writing(within) as connection:
            self.append_all([one], within=connection)

    def act(
        self,
        scope: Scope,
        principal: str,
        action: str,
        subject: str,
        detail: Detail = None,
        **options: Unpack[ActOptions],
    ) -> Act:
        """An act of now, checked; it is not in the log yet."""
        return act(scope, microseconds(self.database.clock.now()), principal, action, subject, detail, **options)

    def append_with_commit(self, one: Act) -> None:
        """Record an act with the write transaction that is open in this thread: all of it in one append, right before
        the commit, which fails when the log is damaged."""
        self.database.gather(self.append_all, one)

    def append_all(self, acts: Sequence[Act], within: Connection, alike: Connection | None = None) -> None:
        """Record acts in their order, in one transaction.

        Args:
            alike: a transaction of another catalog, whose log is the same and stays the same.

        Raises:
            CorruptionError: a log's head is damaged; nothing may be committed then.
        """
        scopes: dict[Scope, list[Act]] = {}
        for one in acts:
            scopes.setdefault(one.scope, []).append(one)
        for scope, group in scopes.items():
            rows, nodes = self._extend(scope, group, within)
            self._keep(scope, rows, nodes, within)
            if alike is not None:  # Made anew there they would be others: each has salts of its own.
                self._keep(scope, rows, nodes, alike)
                self._move(scope, self.head(scope, within=within), alike)

    def _keep(self, scope: Scope, rows: Sequence[AuditRow], nodes: Sequence[Node], within: Connection) -> None:
        driver_sql(within, *insertion(self.database, scope, rows))
        if nodes:
            owner = (scope.tenant, scope.environment)
            driver_sql(within, _KEEP, [(*owner, *msgspec.structs.astuple(node)) for node in nodes])

    def _extend(self, scope: Scope, group: Sequence[Act], within: Connection) -> tuple[list[AuditRow], list[Node]]:
        """Move the head over these acts; their rows and nodes, which are to be written then."""
        left = self._left.get(scope)
        if left is not None:
            rows, nodes, head = _extended(left[0], group)
            if self._move(scope, head, within, since=left[1]):
                return rows, nodes
        rows, nodes, head = _extended(self.head(scope, within=within), group)
        self._move(scope, head, within)
        return rows, nodes

    def head(self, scope: Scope, *, within: Connection | None = None) -> Head:
        """Read the end of the log.

        Raises:
            CorruptionError: the head is damaged, or not sealed with this server's secret.
        """
        with self.database.reading(within) as connection:
            found = driver_sql(connection, _HEAD, (scope.tenant, scope.environment)).first()
            if found is None and within is not None and self._has_entries(scope, connection):
                raise _damaged(scope, "there are records and no head")
        if found is None:
            return Head(Tree())
        size, peaks, checkpoint, seal = found
        try:
            split = tuple(peaks[start : start + _PEAK] for start in range(0, len(peaks), _PEAK))
            head = Head(Tree(size, split), checkpoint.decode())
        except UnicodeDecodeError:
            raise _damaged(scope, "its checkpoint is no text") from None
        if len(head.tree.peaks) != int(size).bit_count() or not hmac.compare_digest(seal, self.seal(scope, head)):
            raise _damaged(scope, "its head is not as this server left it")
        return head

    def seal(self, scope: Scope, head: Head) -> bytes:
        """HMAC-SHA-256 over the head's scope, size, peaks and checkpoint."""
        peaks = b"".join(head.tree.peaks).hex()
        return hmac.digest(
            self._secret,
            canonical(["audit head", scope.tenant, scope.environment, head.tree.size, peaks, head.checkpoint]),
            "sha256",
        )

    def set_checkpoint(self, scope: Scope, checkpoint: str, *, within: Connection | None = None) -> None:
        """Keep the newest signed checkpoint with the head."""
        with self.database.writing(within) as connection:
            self._move(scope, Head(self.head(scope, within=connection).tree, checkpoint), connection)

    def scopes(self, *, headless: bool = False) -> list[Scope]:
        """Every scope that has a log; ``headless`` ones too, whose head is gone (this reads every record's key)."""
        tables = (schema.audit_heads, *((schema.audit_entries, schema.audit_nodes) if headless else ()))
        found: set[Scope] = set()
        with self.database.read() as connection:
            for table in tables:
                of = select(utf8(table.c.tenant), utf8(table.c.environment)).distinct()
                for tenant, environment in connection.execute(of):
                    # A row whose scope is no name was moved there: it is missed where it belongs.
                    with contextlib.suppress(InvalidInputError, UnicodeDecodeError):
                        found.add(Scope(tenant.decode(), environment.decode()))
        return sorted(found)

    def query(self, scope: Scope, criteria: AuditFilter | None = None) -> list[AuditEntry]:
        """The page of records that the filter asks for, latest first; the newest page without one.

        Raises:
            InvalidInputError: the limit is not between 1 and :data:`MOST`, or ``since`` is after ``until``.
        """
        query, table = criteria or AuditFilter(), schema.audit_entries
        if not 1 <= query.limit <= MOST:
            raise InvalidInputError(
                f"{query.limit} records are no page.", where="limit", next_step=f"Ask for 1 to {MOST}."
            )
        if query.since is not None and query.until is not None and query.since > query.until:
            raise InvalidInputError("The end lies before the beginning.", where="until", next_step="Swap the two.")
        statement = select(*COLUMNS).where(schema.owned(table, scope))
        if query.who is not None:
            statement = statement.where((table.c.principal == query.who) | of_user(self.database, scope, query.who))
        for column, text in ((table.c.action, query.action), (table.c.subject, query.subject)):
            if text is not None and text.endswith("*"):
                statement = statement.where(func.substr(column, 1, len(text) - 1) == text[:-1])
            elif text is not None:
                statement = statement.where(column == text)
        if query.since is not None:
            statement = statement.where(table.c.at >= microseconds(query.since))
        if query.until is not None:
            statement = statement.where(table.c.at < microseconds(query.until))
        if query.denied:
            statement = statement.where(table.c.outcome == "denied")
        if query.before is not None:
            statement = statement.where(table.c.sequence < query.before)
        with self.database.read() as connection:
            found = connection.execute(statement.order_by(table.c.sequence.desc()).limit(query.limit))
            return [audit_record.entry(scope, shown(self.database, scope, one)) for one in found]

    def last_at(self, scope: Scope, action: str, subject: str) -> datetime | None:
        """The moment at which something was last done to a subject."""
        return next((one.at for one in self.query(scope, AuditFilter(action=action, subject=subject, limit=1))), None)

    def erase(self, scope: Scope, name: str, *, principal: str, reason: str) -> int:
        """Erase a person: their name as principal, originating user or subject, and each detail that holds it.

        What was done stays provable, and that something was erased too. The erased bytes leave the disk with the next
        ``Database.erase_free_space``. Returns in how many places it stood.

        Raises:
            InvalidInputError: who erases is the one who is erased.
        """
        if principal == name:
            raise InvalidInputError(
                "A principal cannot erase itself.", where="principal", next_step="Ask another administrator to do it."
            )
        table, erased = schema.audit_entries, 0
        name = audit_record.written(name)
        quoted = canonical(name).decode()[1:-1]
        word = re.compile(rf"(?<![\w.@+-]){re.escape(quoted)}(?![\w@+-])")
        with self.database.transaction() as connection:
            for field in audit_record.FIELDS:
                stands = table.c[field] == name
                if field == "originator":
                    stands = of_user(self.database, scope, name)
                if field == "detail":
                    stands = (position(table.c.detail, quoted) > 0) & (table.c.action != ERASE)
                statement = select(*COLUMNS).where(schema.owned(table, scope), stands)
                for found in connection.execute(statement).all():
                    row = loaded(self.database, scope, found)
                    if field == "detail" and word.search(row.detail or "") is None:
                        continue
                    self._erase(scope, row, (field,), connection)
                    erased += 1
            if erased:
                detail = {"count": erased, "reason": reason}
                self.append(scope, principal, ERASE, "erased", detail, within=connection)
        return erased

    def erase_all(self, scope: Scope, *, principal: str, reason: str) -> int:
        """Erase every name, subject and detail of a scope's log but those of erasures; cut off, it goes on.

        What was done stays provable by what the records commit to. Returns in how many places something stood.
        """
        table, erased, after = schema.audit_entries, 0, -1
        something = or_(*(table.c[field].is_not(None) for field in audit_record.FIELDS))
        while True:
            with self.database.transaction() as connection:
                of_scope = schema.owned(table, scope), table.c.sequence > after, table.c.action != ERASE, something
                statement = select(*COLUMNS).where(*of_scope).order_by(table.c.sequence).limit(_ERASED_AT_ONCE)
                rows = [loaded(self.database, scope, found) for found in connection.execute(statement).all()]
                if not rows:
                    return erased
                count = 0
                for row in rows:
                    present = [field for field, text, _ in audit_record.committed(row) if text is not None]
                    self._erase(scope, row, present, connection)
                    count += len(present)
                detail = {"count": count, "reason": reason}
                self.append(scope, principal, ERASE, "erased", detail, within=connection)
            erased, after = erased + count, rows[-1].sequence

    def _erase(self, scope: Scope, row: AuditRow, fields: Sequence[str], connection: Connection) -> None:
        """Take texts of a record and their salts away; what they committed to stays."""
        table, kept = schema.audit_entries, audit_record.commitments(row)
        values: dict[str, Any] = {name: None for field in fields for name in (field, f"{field}_salt")}
        if "originator" in fields:
            values["originator_sealed"] = None
        values["erased"] = canonical({one: kept[one] for one in (*audit_record.gone(row), *fields)})
        connection.execute(
            update(table).where(schema.owned(table, scope), table.c.sequence == row.sequence).values(values)
        )

    def kept(self, scope: Scope, connection: Connection) -> Kept:
        """Reads kept nodes of the scope's tree."""
        leaves, nodes = schema.audit_entries, schema.audit_nodes

        def read(level: int, start: int, end: int) -> list[bytes]:
            if level == 0:
                place, statement = leaves.c.sequence, select(leaves.c.leaf)
            else:
                place, statement = nodes.c.position, select(nodes.c.hash).where(nodes.c.level == level)
            statement = statement.where(schema.owned(place.table, scope), place >= start, place < end)
            found = connection.execute(statement.order_by(place)).scalars().all()
            if len(found) != end - start:
                raise _damaged(scope, f"a node of level {level} between {start} and {end} is missing")
            return [*found]

        return read

    def _move(self, scope: Scope, head: Head, connection: Connection, *, since: tuple[Any, ...] | None = None) -> bool:
        """Write the head; given the row that it stood in ``since`` (seal, size, peaks, checkpoint), only over that one.
        Whether it was written."""
        size, peaks, seal = head.tree.size, b"".join(head.tree.peaks), self.seal(scope, head)
        checkpoint = head.checkpoint.encode()
        owner = (scope.tenant, scope.environment)
        if since is None:
            driver_sql(connection, _MOVE, (*owner, size, peaks, checkpoint, seal))
        elif not driver_sql(connection, _EXTEND, (size, peaks, checkpoint, seal, *owner, *since)).rowcount:
            return False
        self._left[scope] = (head, (seal, size, peaks, checkpoint))
        return True

    def _has_entries(self, scope: Scope, connection: Connection) -> bool:
        table = schema.audit_entries
        return (
            connection.execute(select(table.c.sequence).where(schema.owned(table, scope)).limit(1)).first() is not None
        )


def _extended(head: Head, group: Sequence[Act]) -> tuple[list[AuditRow], list[Node], Head]:
    rows = [audit_record.row(one, number) for number, one in enumerate(group, head.tree.size)]
    tree, nodes = head.tree.extended(one.leaf for one in rows)
    return rows, nodes, Head(tree, head.checkpoint)


def _damaged(scope: Scope, what: str) -> CorruptionError:
    return CorruptionError(
        f"The audit log of {scope} is damaged: {what}.",
        where="audit",
        next_step="Nothing is recorded in it until it is mended: run `antiphon audit verify`, then restore a backup.",
    )
