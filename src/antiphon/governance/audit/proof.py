"""Proofs that are verified without this installation: of one record, or of a period of the log in one file.

An export is a run of records without a gap, so that nothing inside it can be left out: it begins with the first record
of its period and ends with the last. Both are read by the stand-alone verifier (``governance/verifier``).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec
from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import microseconds
from antiphon.core.errors import InvalidInputError, NotFoundError, SetupError
from antiphon.core.scope import Scope
from antiphon.governance.audit import merkle
from antiphon.governance.audit import record as audit_record
from antiphon.governance.audit.checkpoint import Checkpoint
from antiphon.governance.audit.checkpoint_key import CheckpointKey, EarlierKey
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.record import AuditRow
from antiphon.governance.audit.rows import COLUMNS, loaded

PROOF = "antiphon audit proof 1"
EXPORT = "antiphon audit export 1"
_BLOCK = 1_000


class CommitmentPreimage(msgspec.Struct, frozen=True):
    """Salt and text behind a commitment, which is SHA-256 of salt (hex), field, a zero byte and text."""

    text: str
    salt: str


class ProvedRecord(msgspec.Struct, frozen=True):
    """A record with its place. ``content`` is what the leaf hashes; ``path`` is base64, from the leaf up.

    ``opened``: principal, originator, subject and detail, as far as they are not erased.
    """

    sequence: int
    content: str
    opened: dict[str, CommitmentPreimage]
    path: tuple[str, ...]


class AuditProof(msgspec.Struct, frozen=True):
    """One record under a signed checkpoint, complete in itself. ``key`` is signed-note's verifier key, ``earlier`` are
    those before it."""

    format: str
    key: str
    checkpoint: str
    record: ProvedRecord
    earlier: tuple[EarlierKey, ...] = ()


class WitnessedLine(msgspec.Struct, frozen=True):
    """A witnessed checkpoint, and the proof (base64) that it is the beginning of the export's."""

    checkpoint: str
    consistency: tuple[str, ...]


class ExportHead(msgspec.Struct, frozen=True):
    """First line of an export: ``witnessed`` and ``records`` count the lines that follow."""

    format: str
    key: str
    checkpoint: str
    first: int
    witnessed: int
    records: int
    earlier: tuple[EarlierKey, ...] = ()


def prove(log: AuditLog, key: CheckpointKey, scope: Scope, sequence: int, checkpoint: Checkpoint) -> AuditProof:
    """Proof that a record is in the log of this checkpoint.

    Raises:
        NotFoundError: the log of the checkpoint has no such record.
        CorruptionError: the log is damaged.
    """
    if not 0 <= sequence < checkpoint.size:
        raise NotFoundError(
            f"There is no record {sequence} in the log of {scope}.",
            where="sequence",
            next_step=f"The checkpoint has {checkpoint.size} records, counted from 0: see `antiphon audit query`.",
        )
    with log.database.read() as connection:
        (row,) = _rows(log.database, connection, scope, sequence, sequence + 1)
        proved = _proved(log.kept(scope, connection), scope, row, checkpoint)
    return AuditProof(PROOF, key.verifier(scope), checkpoint.note, proved, key.earlier_keys(scope))


def find(log: AuditLog, scope: Scope, subject: str, action: str) -> int:
    """The sequence of the first record of an action on a subject.

    Raises:
        NotFoundError: there is none, or the subject was erased.
    """
    table = schema.audit_entries
    with log.database.read() as connection:
        found = connection.execute(
            select(func.min(table.c.sequence)).where(
                schema.owned(table, scope), table.c.subject == subject, table.c.action == action
            )
        ).scalar()
    if found is None:
        raise NotFoundError(
            f"No record {action!r} of {subject!r} is in the audit log of {scope}.",
            where="subject",
            next_step="See `antiphon audit query`; an erased subject is found by its record's number only.",
        )
    return int(found)


def export(
    log: AuditLog, key: CheckpointKey, scope: Scope, checkpoint: Checkpoint, witnessed: Sequence[Checkpoint],
    file: Path, since: datetime | None = None, until: datetime | None = None,
) -> ExportHead:  # fmt: skip
    """Write the records from the first at or after ``since`` to the last before ``until``: a whole file, or none.

    The checkpoints in ``witnessed`` that the export's checkpoint continues are proved to be its beginning.

    Raises:
        InvalidInputError: the period is empty.
        CorruptionError: a witnessed checkpoint is not the beginning of the log.
        SetupError: the file cannot be written.
    """
    with log.database.read() as connection:
        first, end = _period(connection, scope, checkpoint.size, since, until)
        kept = log.kept(scope, connection)
        before = [one for one in witnessed if one.size <= checkpoint.size]
        head = ExportHead(
            EXPORT, key.verifier(scope), checkpoint.note, first, len(before), end - first, key.earlier_keys(scope)
        )
        draft = file.with_name(f".{file.name}.{os.getpid()}.partial")
        try:
            with draft.open("wb") as out:
                for line in (head, *_witnessed(kept, scope, checkpoint, before)):
                    out.write(msgspec.json.encode(line) + b"\n")
                for start in range(first, end, _BLOCK):
                    for row in _rows(log.database, connection, scope, start, min(end, start + _BLOCK)):
                        out.write(msgspec.json.encode(_proved(kept, scope, row, checkpoint)) + b"\n")
                out.flush()
                os.fsync(out.fileno())
            draft.replace(file)
        except OSError as error:
            raise SetupError(
                f"The export cannot be written: {error.strerror}.", where=str(file), next_step="Check path and space."
            ) from error
        finally:
            with suppress(OSError):  # a name that is too long: there was no draft either
                draft.unlink(missing_ok=True)
    return head


def _witnessed(
    kept: merkle.Kept, scope: Scope, checkpoint: Checkpoint, before: Sequence[Checkpoint]
) -> Iterator[WitnessedLine]:
    for one in before:
        path = merkle.consistency(kept, one.size, checkpoint.size)
        if not merkle.consistent(one.size, one.root, checkpoint.size, checkpoint.root, path):
            raise audit_record.damaged(
                f"The witnessed checkpoint of {one.size} records is not the beginning of the audit log of {scope}."
            )
        yield WitnessedLine(one.note, _text(path))


def _proved(kept: merkle.Kept, scope: Scope, row: AuditRow, checkpoint: Checkpoint) -> ProvedRecord:
    try:
        content = audit_record.content(scope, row)
    except (ValueError, msgspec.MsgspecError):
        content = b""
    path = merkle.inclusion(kept, row.sequence, checkpoint.size)
    leaf = merkle.leaf_hash(content)
    if not merkle.included(leaf, row.sequence, checkpoint.size, path, checkpoint.root):
        raise audit_record.damaged(
            f"Record {row.sequence} of the audit log of {scope} does not give the checkpoint's root."
        )
    opened: dict[str, CommitmentPreimage] = {
        field: CommitmentPreimage(text, salt.hex())
        for field, text, salt in audit_record.committed(row)
        if text is not None and salt is not None
    }
    return ProvedRecord(row.sequence, content.decode(), opened, _text(path))


def _rows(database: Database, connection: Connection, scope: Scope, start: int, end: int) -> list[AuditRow]:
    table = schema.audit_entries
    statement = select(*COLUMNS).where(schema.owned(table, scope), table.c.sequence >= start, table.c.sequence < end)
    rows = [loaded(database, scope, one) for one in connection.execute(statement.order_by(table.c.sequence))]
    if len(rows) != end - start:
        raise audit_record.damaged(f"The audit log of {scope} has {len(rows)} of the records {start} to {end - 1}.")
    return rows


def _period(
    connection: Connection, scope: Scope, size: int, since: datetime | None, until: datetime | None
) -> tuple[int, int]:
    table = schema.audit_entries
    statement = select(func.min(table.c.sequence), func.max(table.c.sequence))
    statement = statement.where(schema.owned(table, scope), table.c.sequence < size)
    if since is not None:
        statement = statement.where(table.c.at >= microseconds(since))
    if until is not None:
        statement = statement.where(table.c.at < microseconds(until))
    first, last = connection.execute(statement).one()
    if first is None:
        raise InvalidInputError(
            f"The audit log of {scope} has no record in this period.", where="from", next_step="Choose a longer one."
        )
    return first, last + 1


def _text(path: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(base64.b64encode(one).decode() for one in path)
