"""The audit log of one project as the gateway, the commands and the serving path use it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from antiphon.catalog.serving.receipt import Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import parse_duration
from antiphon.core.errors import AntiphonError
from antiphon.core.leases import Renewer
from antiphon.core.scope import Scope
from antiphon.core.settings import ProjectPaths, Settings
from antiphon.governance.audit import checkpoint_key
from antiphon.governance.audit import proof as audit_proof
from antiphon.governance.audit import verification as audit_check
from antiphon.governance.audit.checkpoint import Checkpoint, parse, signed_by
from antiphon.governance.audit.checkpoint_key import CheckpointKey
from antiphon.governance.audit.checkpointing import CheckpointSigner, NewestCheckpoint
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.proof import AuditProof, ExportHead
from antiphon.governance.audit.verification import Verification
from antiphon.governance.audit.witness import Witness
from antiphon.governance.audit.writer import AuditWriter
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.engine import Decision

ANSWER = "answer"
"""The action that records a prediction: its subject is the prediction, its detail the hash of its receipt."""

ROTATE_KEY = "audit.rotate-key"

_log = logging.getLogger("antiphon.audit")


class AuditTrail:
    """The log with its writer, its key and its witness. Close it before the catalog."""

    def __init__(
        self, log: AuditLog, settings: Settings, paths: ProjectPaths, *, renewer: Renewer | None = None
    ) -> None:
        self.log = log
        self.writer = AuditWriter(log)
        self.enqueue, self.record, self.query = self.writer.enqueue, self.writer.record, log.query
        self._key_file, self._origin = paths.keys / "audit.secret", settings.audit.origin
        self._key = CheckpointKey.load(self._key_file, self._origin)
        self.witness = Witness(paths.root / settings.audit.witness)
        every = parse_duration(settings.audit.every).total_seconds()
        self.checkpointing = CheckpointSigner(log, self._key, self.witness, every=every)
        self.newest = NewestCheckpoint(log, log.database.clock, renewer=renewer)

    @property
    def key(self) -> CheckpointKey:
        """The key that signs checkpoints now; another process may have replaced it."""
        self._key = self._key.fresh()
        return self._key

    def rotate_key(self, scope: Scope, principal: str, reason: str) -> CheckpointKey:
        """Put a new key in the place of the one that signs, while everything runs, and sign every log with it.

        What earlier keys signed goes on holding, by their public parts and the statement with which each handed over.
        ``scope`` is where it is recorded.

        Raises:
            SetupError: a file cannot be written; the key is the one before.
        """
        with self.witness.turn():
            before = self.key
            made = checkpoint_key.rotate(self._key_file, self._origin)
        # Of a verifier key, the hash tells it from others.
        previous, key = (one.verifier(scope).split("+")[1] for one in (before, made))
        detail = {"previous": previous, "key": key, "reason": reason}
        self.log.append(scope, principal, ROTATE_KEY, "audit", detail)
        for each in self.log.scopes():
            try:
                self.checkpointing.sign(each)
            except AntiphonError:
                _log.critical("No checkpoint of the audit log of %s under the new key.", each, exc_info=True)
        return made

    def checkpoint(self, scope: Scope) -> Checkpoint | None:
        """The newest signed checkpoint; ``None`` before the first."""
        text = self.log.head(scope).checkpoint
        return parse(text) if text else None

    def proof(self, scope: Scope, sequence: int) -> AuditProof:
        """Proof of one record, under a checkpoint that covers it: a new one when there is none yet.

        Raises:
            NotFoundError: there is no such record. CorruptionError: the log is damaged.
        """
        covering, key = self.checkpoint(scope), self.key
        behind = covering is None or covering.size <= sequence < self.log.head(scope).tree.size
        if behind or (covering is not None and not signed_by(covering, key.public)):
            covering, key = self.checkpointing.sign(scope), self.key
        return audit_proof.prove(self.log, key, scope, sequence, covering or Checkpoint(key.origin(scope), 0, b""))

    def sequence_of(self, scope: Scope, prediction: str) -> int:
        """Returns the sequence number of a prediction's record.

        Raises:
            NotFoundError: there is none.
        """
        return audit_proof.find(self.log, scope, prediction, ANSWER)

    def witnessed_origins(self) -> frozenset[str]:
        """Of which logs the witness file holds checkpoints that this installation signed."""
        key = self.key
        return frozenset(one.origin for one in self.witness.read().checkpoints if key.signed(one))

    def verify(self, scope: Scope, kept: Sequence[Checkpoint] = (), witness: Path | None = None) -> Verification:
        """Check a scope's whole log against the witness file (this project's, or another) and kept checkpoints."""
        witnessed = (self.witness if witness is None else Witness(witness)).read()
        mine = [*witnessed.of(self.key.origin(scope)), *kept]
        found = audit_check.verify(self.log, scope, key=self.key, checkpoints=mine)
        return msgspec.structs.replace(found, problems=(*found.problems, *witnessed.problems))

    def export(self, scope: Scope, file: Path, since: Any = None, until: Any = None) -> ExportHead:
        """Write a stretch of the log as one file for the stand-alone verifier, under a checkpoint of now.

        Raises:
            InvalidInputError: there is no record in the period.
        """
        checkpoint = self.checkpointing.sign(scope) or Checkpoint(self.key.origin(scope), 0, b"")
        witnessed = self.witness.read().of(checkpoint.origin)
        return audit_proof.export(self.log, self.key, scope, checkpoint, witnessed, file, since, until)

    def close(self) -> None:
        """Write what was accepted."""
        self.writer.close()


class AuditedReceipts:
    """Receipts as serving writes them: each with a record in the same transaction that commits to its hash."""

    def __init__(self, receipts: Receipts, log: AuditLog) -> None:
        self._receipts = receipts
        self._log = log

    def add(self, receipt: Receipt, texts: Sequence[bytes] = (), *, within: Any = None) -> None:
        """See ``catalog.receipts.Receipts.add``."""
        with self._log.database.writing(within) as connection:
            self._receipts.add(receipt, texts, within=connection)
            detail = {
                "application": receipt.application,
                "release": receipt.release,
                "path": receipt.path,
                "role": receipt.role,
                "policy": receipt.policy.digest,
                "sha256": receipt_hash(receipt),
            }
            act = self._log.act(
                receipt.scope, receipt.principal, ANSWER, receipt.prediction, detail,
                originator=receipt.originating_user,
            )  # fmt: skip
            # A commit of many answers reads and seals the log's head once.
            self._log.append_with_commit(act)


def batch_denial(
    trail: AuditTrail, scope: Scope, principal: Principal, action: str, resource: object, decision: Decision
) -> None:
    """Record that policy refused a batch row."""
    detail = {"action": action, "path": "batch", "policies": list(decision.policies), "digest": decision.digest}
    trail.enqueue(scope, principal.id, "denied", str(resource), detail, outcome="denied")


def receipt_hash(receipt: Receipt) -> str:
    """SHA-256 (hex) of a receipt's JSON: what its record commits to."""
    return hashlib.sha256(msgspec.json.encode(receipt)).hexdigest()
