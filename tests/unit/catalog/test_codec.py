from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, receipt

from antiphon.catalog.batch.jobs import JobRow, Jobs
from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event, EventLog
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.codec import Envelope, PayloadContext, PlainCodec, pack, unpack
from antiphon.core.errors import CorruptionError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope

CONTEXT = PayloadContext("receipt/1", DEV, "p1")


def test_a_plain_envelope_is_read_back() -> None:
    codec = PlainCodec()
    envelope = codec.seal(b"content", CONTEXT)
    assert envelope == Envelope("receipt/1", "plain", None, b"content")
    assert codec.open(unpack(pack(envelope)), CONTEXT) == b"content"


@pytest.mark.parametrize(
    ("envelope", "said"),
    [
        (Envelope("receipt/1", "aes", "k1", b""), "sealed by codec 'aes'"),
        (Envelope("blob/1", "plain", None, b""), "is a 'blob/1'"),
    ],
)
def test_what_is_not_ours_to_open_is_refused(envelope: Envelope, said: str) -> None:
    with pytest.raises(CorruptionError, match=said):
        PlainCodec().open(envelope, CONTEXT)


@pytest.mark.parametrize("packed", [b"", b"\xc1", msgspec.msgpack.encode({"a": 1}), msgspec.msgpack.encode([1, 2])])
def test_bytes_that_are_no_envelope_are_refused(packed: bytes) -> None:
    with pytest.raises(CorruptionError, match="no envelope"):
        unpack(packed)


class Turned:
    """A codec that hides bytes by turning their bits, and is bound to its context."""

    sealing = True
    accepts_plain = False

    def current_key(self, scope: Scope) -> str | None:
        return "k1"

    def index(self, text: str, scope: Scope, purpose: str) -> str:
        return content_hash(f"{scope}{purpose}{text}".encode())

    def seal(self, content: bytes, context: PayloadContext) -> Envelope:
        bound = f"{context.scope}|{context.subject}|".encode() + content
        return Envelope(context.schema, "turned", "k1", bytes(byte ^ 0xFF for byte in bound))

    def open(self, envelope: Envelope, context: PayloadContext) -> bytes:
        bound = bytes(byte ^ 0xFF for byte in envelope.content)
        prefix = f"{context.scope}|{context.subject}|".encode()
        if not bound.startswith(prefix):
            raise CorruptionError("The payload is from another place.")
        return bound.removeprefix(prefix)


def test_every_payload_goes_through_the_codec_and_is_bound_to_its_place(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/catalog.db", codec=Turned())
    database.migrate()
    blobs, jobs = Blobs(database), Jobs(database)
    Receipts(database).add(receipt("p1", originating_user="SECRET-USER"), [b"SECRET-PROMPT"])
    EventLog(database).append(DEV, "s", [Event("e1", NOON, NOON, {"name": "SECRET-NAME"})])
    job = jobs.create(DEV, application="a", release=None, input="i", output="o", principal="p").id
    jobs.write_rows(DEV, job, jobs.take_over(DEV, job), [JobRow(0, {"text": "SECRET-ROW"})])

    assert Receipts(database).get(DEV, "p1").originating_user == "SECRET-USER"
    assert EventLog(database).read(DEV, "s", 0, 1)[0].event.payload == {"name": "SECRET-NAME"}
    assert next(jobs.rows(DEV, job)).payload == {"text": "SECRET-ROW"}
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"SECRET" not in stored

    first, second = blobs.put_many(DEV, [b"first", b"second"])
    with database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE blobs SET payload = (SELECT payload FROM blobs WHERE hash = ?) WHERE hash = ?", (first, second)
        )
    with pytest.raises(CorruptionError, match="another place"):
        blobs.get(DEV, second)
    database.close()
