"""Whatever is appended, signed and erased in whichever order: the log verifies, and every checkpoint is a beginning."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.catalog.examples import DEV, OTHER, open_database
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.governance.audit.checkpoint_key import CheckpointKey
from antiphon.governance.audit.checkpointing import CheckpointSigner
from antiphon.governance.audit.log import AuditFilter, AuditLog
from antiphon.governance.audit.verification import verify
from antiphon.governance.audit.witness import Witness
from antiphon.governance.encryption.sealing import AesGcmCodec

KEY = CheckpointKey(b"k" * 32)
NAMES = st.sampled_from(["ann", "bob", "zoe", 'Zoë "x"', "a\\b", "\ud800", "x" * 512])
DETAILS = st.dictionaries(
    st.sampled_from(["reason", "name", "count", "rows", "secret"]),
    st.none()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.lists(st.text(max_size=5))
    | NAMES,
)
APPEND = st.tuples(st.just("append"), st.sampled_from([DEV, OTHER]), NAMES, NAMES, st.none() | NAMES, DETAILS)
STEPS = st.lists(APPEND | st.tuples(st.just("sign")) | st.tuples(st.just("erase"), NAMES), max_size=25)


@functools.cache
def empty() -> bytes:
    """A migrated catalog's file."""
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(Path(folder))
        database.erase_free_space()
        database.close()
        return (Path(folder) / "catalog.db").read_bytes()


@given(st.integers(0, 40), STEPS, st.booleans())
@settings(max_examples=30)
def test_every_history_verifies(already: int, steps: list[tuple[object, ...]], encrypted: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "catalog.db").write_bytes(empty())
        database = open_database(Path(folder))
        if encrypted:
            database.codec = AesGcmCodec(Keys())
        log, witness = AuditLog(database, b"s" * 32), Witness(Path(folder) / "witness")
        checkpointing = CheckpointSigner(log, KEY, witness)
        with database.transaction() as connection:
            log.append_all(
                [log.act(DEV, "ann", "data.read", f"pred_{one}") for one in range(already)], within=connection
            )
        for kind, *given_ in steps:
            if kind == "append":
                scope, principal, subject, originator, detail = given_
                log.append(scope, principal, "act", subject, detail, originator=originator)  # type: ignore[arg-type]
            elif kind == "sign":
                checkpointing.sign_all()
            else:
                log.erase(DEV, str(given_[0]), principal="the eraser", reason="asked for it")
        for scope in (DEV, OTHER):
            found = verify(log, scope, key=KEY, checkpoints=witness.read().of(KEY.origin(scope)))
            assert found.sound, found.problems
            assert all(
                entry.detail is None or "secret" not in entry.detail
                for entry in log.query(scope, AuditFilter(limit=100))
            )
            for entry in log.query(scope, AuditFilter(limit=100)):
                if entry.originator is not None:
                    assert entry in log.query(scope, AuditFilter(who=entry.originator, limit=100))
        database.close()
