"""Answers and their records are one: an answer that is there is in the log, and its receipt carries a checkpoint."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.integration.serving.test_wired import PLAIN, Project
from tests.unit.catalog.examples import receipt

from antiphon.catalog.group_commit import GroupCommit
from antiphon.core.errors import AntiphonError, CorruptionError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.governance.audit import checkpoint_key
from antiphon.governance.audit.checkpoint import parse, signed_by
from antiphon.governance.audit.log import AuditFilter
from antiphon.governance.audit.verification import verify
from antiphon.governance.policy.engine import Decider
from antiphon.governance.verifier import antiphon_verify
from antiphon.services.governance.audit_trail import AuditedReceipts, receipt_hash
from antiphon.services.project.store import Store
from antiphon.serving.request import AnswerRequest


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    opened = Project(tmp_path)
    yield opened
    await opened.close()


async def test_an_answer_is_in_the_log_with_its_receipt(project: Project, tmp_path: Path) -> None:
    store, scope = project.store, project.store.scope
    project.release(PLAIN, live=True)
    store.audit.append(scope, "ann", "release.activate", "rel_1")
    signed = store.trail.checkpointing.sign(scope)
    assert signed is not None
    answer = await project.answerer.answer(project.request(originating_user="zoe"))
    kept = store.receipts.get(scope, answer.prediction)
    assert kept == answer.receipt
    assert kept.audit_checkpoint == signed.note
    assert signed_by(parse(kept.audit_checkpoint), store.trail.key.public)

    sequence = store.trail.sequence_of(scope, answer.prediction)
    (entry,) = [one for one in store.audit.query(scope) if one.sequence == sequence]
    assert (entry.action, entry.principal, entry.originator) == ("answer", "someone", "zoe")
    assert entry.detail is not None
    assert entry.detail["sha256"] == receipt_hash(kept)
    assert receipt_hash(msgspec.structs.replace(kept, finish_reason="length")) != entry.detail["sha256"]

    proof = store.trail.proof(scope, sequence)
    (tmp_path / "proof.json").write_bytes(msgspec.json.encode(proof))
    arguments = [str(tmp_path / "proof.json"), "--key", store.trail.key.verifier(scope)]
    assert antiphon_verify.main([*arguments, "--witness", str(store.trail.witness.path)]) == 0
    assert store.trail.verify(scope).sound


async def test_a_receipt_that_is_not_kept_is_not_in_the_log(project: Project) -> None:
    store = project.store
    receipts = AuditedReceipts(store.receipts, store.audit)

    def add_and_fail() -> None:
        with store.database.transaction() as connection:
            receipts.add(receipt("pred_1", store.scope), within=connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        add_and_fail()
    with pytest.raises(NotFoundError):
        store.trail.sequence_of(store.scope, "pred_1")
    receipts.add(receipt("pred_1", store.scope))
    assert store.trail.sequence_of(store.scope, "pred_1") == 0


async def test_a_tenants_damaged_log_keeps_no_other_tenant_from_being_answered(project: Project) -> None:
    store, other = project.store, Scope("other", project.store.scope.environment)
    receipts, commit = AuditedReceipts(store.receipts, store.audit), GroupCommit(store.database)
    for scope in (store.scope, other):
        receipts.add(receipt("pred_0", scope))
    with store.database.transaction() as connection:  # the writer waits, so that all of these are one group
        connection.exec_driver_sql("UPDATE audit_heads SET size = size + 1 WHERE tenant = 'other'")
        submitted = [
            asyncio.create_task(
                commit.submit(functools.partial(lambda made, c: receipts.add(made, within=c), receipt(name, scope)))
            )
            for name in ("pred_1", "pred_2")
            for scope in (store.scope, other)
        ]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*submitted, return_exceptions=True)
    assert [isinstance(outcome, CorruptionError) for outcome in outcomes] == [False, True, False, True]
    assert [one.subject for one in store.audit.query(store.scope)] == ["pred_2", "pred_1", "pred_0"]
    assert verify(store.audit, store.scope).sound
    assert [one.prediction for one in store.receipts.list(other)] == ["pred_0"]
    commit.close()


async def test_nothing_is_answered_that_cannot_be_recorded(project: Project) -> None:
    project.release(PLAIN, live=True)
    first = await project.answerer.answer(project.request())
    with project.store.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE audit_heads SET size = size + 1")
    with pytest.raises(CorruptionError, match="damaged"):
        await project.answerer.answer(project.request(request_id="req_2"))
    assert [one.prediction for one in project.store.receipts.list(project.store.scope)] == [first.prediction]


async def test_a_batch_row_that_policy_refuses_is_recorded(project: Project) -> None:
    store, scope = project.store, project.store.scope
    project.release(PLAIN, live=True)
    store.__dict__["decider"] = Decider('@id("nobody") forbid (principal, action, resource);')
    request: AnswerRequest = project.request(path="batch")
    with pytest.raises(AntiphonError):
        await project.answerer.answer(request)
    store.trail.writer.flush()
    (entry,) = [one for one in store.audit.query(scope) if one.outcome == "denied"]
    assert (entry.action, entry.principal) == ("denied", "someone")
    assert entry.detail is not None
    assert entry.detail["path"] == "batch"


async def test_a_stores_end_writes_what_was_accepted(tmp_path: Path) -> None:
    (tmp_path / "antiphon.toml").write_text('[audit]\norigin = "example.com/desk"\n')
    store = Store.open(tmp_path)
    for number in range(100):
        store.trail.enqueue(store.scope, "ann", "data.read", f"pred_{number}")
    store.close()
    again = Store.open(tmp_path)
    assert verify(again.audit, again.scope).entries == 100
    assert again.trail.key.verifier(again.scope).startswith("example.com/desk/default/dev+")
    again.close()


async def test_checkpoints_are_signed_until_the_end(tmp_path: Path) -> None:
    (tmp_path / "antiphon.toml").write_text('[audit]\nevery = "1h"\nwitness = "far/away"\n')
    store, stop = Store.open(tmp_path), asyncio.Event()
    store.audit.append(store.scope, "ann", "release.activate", "rel_1")
    running = asyncio.create_task(store.trail.checkpointing.run_until(stop))
    async with asyncio.timeout(20):
        while not (tmp_path / "far" / "away").exists() or not store.trail.witness.read().checkpoints:
            await asyncio.sleep(0.01)
        store.audit.append(store.scope, "ann", "release.activate", "rel_2")
        stop.set()
        await running
    assert [one.size for one in store.trail.witness.read().checkpoints] == [1, 2]
    assert store.trail.checkpointing.sign_all() == 0  # nothing new
    assert store.trail.verify(store.scope).checkpoints == 3
    store.close()


async def test_the_key_is_replaced_while_other_processes_sign(project: Project, tmp_path: Path) -> None:
    store, scope = project.store, project.store.scope
    project.release(PLAIN, live=True)
    await project.answerer.answer(project.request())
    before = store.trail.key.verifier(scope)
    assert store.trail.checkpointing.sign(scope) is not None
    other = Store.open(store.paths.root)  # another process's
    other.trail.record(scope, "ann", "data.read", "audit")
    made = other.trail.rotate_key(scope, "ann", "it is a year old")
    (entry,) = store.audit.query(scope, AuditFilter(action="audit.rotate-key"))
    assert entry.detail == {
        "previous": before.split("+")[1], "key": made.verifier(scope).split("+")[1], "reason": "it is a year old"
    }  # fmt: skip
    # The process that held the key before signs and proves with the new one, and believes what the old one signed.
    assert store.trail.key.verifier(scope) == made.verifier(scope) != before
    await project.answerer.answer(project.request(request_id="req_2"))
    newest = store.trail.checkpointing.sign(scope)
    assert newest is not None
    assert signed_by(newest, made.public)
    assert store.trail.verify(scope).sound
    assert store.trail.witnessed_origins() == {made.origin(scope)}
    proof = store.trail.proof(scope, 0)
    (tmp_path / "proof.json").write_bytes(msgspec.json.encode(proof))
    for key in (before, made.verifier(scope)):
        arguments = [str(tmp_path / "proof.json"), "--key", key, "--witness", str(store.trail.witness.path)]
        assert antiphon_verify.main(arguments) == 0
    other.close()


async def test_a_proof_under_a_checkpoint_of_the_key_before_is_signed_anew(project: Project, tmp_path: Path) -> None:
    store, scope = project.store, project.store.scope
    store.trail.record(scope, "ann", "data.read", "audit")
    signed = store.trail.checkpointing.sign(scope)
    assert signed is not None
    checkpoint_key.rotate(store.paths.keys / "audit.secret")  # and the process ended before it signed anything
    proof = store.trail.proof(scope, 0)
    assert proof.checkpoint != signed.note
    (tmp_path / "proof.json").write_bytes(msgspec.json.encode(proof))
    arguments = [str(tmp_path / "proof.json"), "--key", proof.key, "--witness", str(store.trail.witness.path)]
    assert antiphon_verify.main(arguments) == 0
