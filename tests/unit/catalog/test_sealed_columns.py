from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.unit.catalog.examples import DEV, NOON, receipt
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.catalog import schema, sealed_columns
from antiphon.catalog.batch.jobs import JobRow, Jobs
from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event, EventLog
from antiphon.catalog.sealed_columns import CLEAR_COLUMNS, SEALED_COLUMNS
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.codec import PlainCodec, unpack
from antiphon.core.errors import CorruptionError
from antiphon.durable.claims import ServedRuns
from antiphon.durable.runs import Runs
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.encryption.sealing import AesGcmCodec, UnsealingCodec

HASHES = {
    "api_keys.hash", "audit_entries.detail_salt", "audit_entries.erased", "audit_entries.leaf",
    "audit_entries.originator_salt", "audit_entries.principal_salt", "audit_entries.subject_salt",
    "audit_heads.checkpoint", "audit_heads.peaks", "audit_heads.seal", "audit_nodes.hash", "data_keys.wrapped",
    "sessions.hash",
}  # fmt: skip
"""Columns of hashes, salts and wrapped keys."""


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database.open(f"sqlite:///{tmp_path}/catalog.db")
    made.migrate()
    return made


def filled(database: Database, number: int = 5) -> None:
    blobs, jobs, runs = Blobs(database), Jobs(database), Runs(database)
    job = jobs.create(DEV, application="a", release=None, input="i", output="o", principal="p").id
    epoch = jobs.take_over(DEV, job)
    for each in range(number):
        blobs.put(DEV, b"text %d" % each)
        Receipts(database).add(receipt(f"p{each}"))
        EventLog(database).append(DEV, "orders", [Event(f"e{each}", NOON, NOON, {"note": each})])
        jobs.write_rows(DEV, job, epoch, [JobRow(each, {"text": each})])
        AuditLog(database, b"s" * 32).append(DEV, "ann", "answer", f"p{each}", originator=f"user{each}")
    jobs.set_status(DEV, job, "failed", epoch=epoch, error="because")
    run = runs.submit(DEV, "w", {"x": 1}, key="by hand")
    claimed = runs.claim("worker", ServedRuns("dev"), timedelta(seconds=5))
    assert claimed is not None
    runs.record(claimed, "step", 0, {"y": 2}, NOON)
    runs.fail(claimed, "because")
    assert run == claimed.id


def readable(database: Database) -> tuple[object, ...]:
    events = EventLog(database).read(DEV, "orders", 0, 100)
    jobs, runs = Jobs(database), Runs(database)
    job, run = jobs.list(DEV)[0], runs.list(DEV)[0]
    return (
        [each.event for each in events],
        [row.payload for row in jobs.rows(DEV, job.id)],
        job.error,
        (run.key, run.arguments, run.error, runs.steps(DEV, run.id)[0].result),
        Receipts(database).list(DEV),
        AuditLog(database, b"s" * 32).query(DEV),
    )


def keys_of(database: Database) -> dict[str, set[str | None]]:
    found: dict[str, set[str | None]] = {}
    for column in SEALED_COLUMNS:
        checked = sealed_columns.check(database, column)
        assert checked.problems == ()
        found[column.name] = set(checked.by_key)
    return found


def reseal(database: Database, target: str) -> int:
    return sum(
        batch.changed for column in SEALED_COLUMNS for batch in sealed_columns.reseal(database, column, target, batch=2)
    )


def test_every_column_of_bytes_is_sealed_or_said_to_be_clear() -> None:
    columns = {
        f"{table.name}.{column.name}"
        for table in schema.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, sa.LargeBinary)
    }
    sealed = {column.name for column in SEALED_COLUMNS}
    assert not sealed & (set(CLEAR_COLUMNS) | HASHES)
    assert columns - sealed - HASHES == set(CLEAR_COLUMNS)
    for column in SEALED_COLUMNS:
        assert column.column in schema.metadata.tables[column.table].columns


def test_a_catalog_goes_into_encryption_and_out_again_and_reads_the_same(database: Database) -> None:
    filled(database)
    before = readable(database)
    keys = Keys()
    database.codec = AesGcmCodec(keys, accept_plain=True)
    changed = reseal(database, "encrypted")
    assert changed >= 5 * 5
    database.codec = AesGcmCodec(keys)
    assert readable(database) == before
    assert set().union(*keys_of(database).values()) == {"k1"}
    with database.read() as connection:
        assert "e0" not in connection.execute(sa.select(schema.events.c.event_id)).scalars().all()
    # The index is found again: an event that is sent twice stays one.
    EventLog(database).append(DEV, "orders", [Event("e0", NOON, NOON, {"note": 0})])
    assert EventLog(database).end(DEV, "orders") == 5

    database.codec = UnsealingCodec(AesGcmCodec(keys, accept_plain=True))
    assert reseal(database, "plaintext") == changed
    database.codec = PlainCodec()
    assert readable(database) == before
    EventLog(database).append(DEV, "orders", [Event("e0", NOON, NOON, {"note": 0})])
    assert EventLog(database).end(DEV, "orders") == 5


def test_what_is_cut_off_goes_on_where_it_was(database: Database) -> None:
    filled(database, 7)
    keys = Keys()
    database.codec = AesGcmCodec(keys, accept_plain=True)
    column = next(column for column in SEALED_COLUMNS if column.name == "blobs.payload")
    first = next(sealed_columns.reseal(database, column, "t", batch=3))
    assert (first.changed, first.done) == (3, 3)
    rest = list(sealed_columns.reseal(database, column, "t", batch=3))
    assert [batch.done for batch in rest] == [6, 7]
    assert sum(batch.changed for batch in rest) == 4
    assert list(sealed_columns.reseal(database, column, "t")) == []
    # Another target begins at the first row.
    keys.current = "k2"
    assert sum(batch.changed for batch in sealed_columns.reseal(database, column, "u")) == 7


def test_a_payload_that_was_lost_before_is_told_and_keeps_nothing_else_from_being_sealed(database: Database) -> None:
    filled(database)
    keys = Keys()
    database.codec = AesGcmCodec(keys, accept_plain=True)
    with database.transaction() as connection:
        connection.execute(
            sa.update(schema.receipts).where(schema.receipts.c.prediction == "p2").values(payload=b"damaged")
        )
    column = next(column for column in SEALED_COLUMNS if column.name == "receipts.payload")
    (batch,) = sealed_columns.reseal(database, column, "t")
    assert batch.changed == 4
    assert [problem.subject for problem in batch.problems] == ["p2"]
    checked = sealed_columns.check(database, column, batch=2)
    assert checked.by_key == {"k1": 4}
    assert [problem.subject for problem in checked.problems] == ["p2"]


def test_a_payload_in_another_row_does_not_open(database: Database) -> None:
    database.codec = AesGcmCodec(Keys())
    filled(database)
    for column in SEALED_COLUMNS:
        table = schema.metadata.tables[column.table]
        with database.read() as connection:
            rows = connection.execute(sa.select(table).limit(2)).all()
        if len(rows) < 2:
            continue
        keys = list(table.primary_key.columns)
        with database.transaction() as connection:
            connection.execute(
                sa.update(table)
                .where(*(key == getattr(rows[0], key.name) for key in keys))
                .values({column.column: getattr(rows[1], column.column)})
            )
        assert len(sealed_columns.check(database, column).problems) == 1, column.name
    with pytest.raises(CorruptionError):
        readable(database)


def test_what_the_repositories_write_is_an_envelope_with_its_schema(database: Database) -> None:
    database.codec = AesGcmCodec(Keys())
    filled(database)
    seen = set()
    for column in SEALED_COLUMNS:
        table = schema.metadata.tables[column.table]
        with database.read() as connection:
            for stored in connection.execute(sa.select(table.c[column.column])).scalars():
                if stored is not None and not column.text:
                    assert unpack(stored).schema == column.schema
                    seen.add(column.name)
    assert len(seen) >= 9
