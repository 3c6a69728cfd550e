"""Writes an audit log and its checkpoints, and kills itself with SIGKILL at a named step of a named round.

``python -m tests.integration.governance.audit.audit_child FOLDER STEP ROUND``
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.unit.catalog.examples import DEV, open_database

from antiphon.governance.audit import log as audit
from antiphon.governance.audit import witness
from antiphon.governance.audit.checkpoint_key import CheckpointKey
from antiphon.governance.audit.checkpointing import CheckpointSigner
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.writer import AuditWriter

SECRET, SEED = b"s" * 32, b"k" * 32
GROUP, ROUNDS = 40, 3
STEPS = (
    "in the group", "before its commit", "after its commit", "before the witness", "half of the witness",
    "before the fsync", "after the witness", "before the head's commit", "after the round",
)  # fmt: skip


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, step: str, number: int) -> None:
    database = open_database(folder)
    log = AuditLog(database, SECRET)
    file = witness.Witness(folder / "witness")
    checkpointing = CheckpointSigner(log, CheckpointKey(SEED), file)
    now = 0

    def at(wanted: str) -> bool:
        return step == wanted and now == number

    def around(owner: Any, name: str, *, before: str | None = None, after: str | None = None) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def wrapped(*given: Any, **named: Any) -> Any:
            if before is not None and at(before):
                die()
            made = real(*given, **named)
            if after is not None and at(after):
                die()
            return made

        setattr(owner, name, wrapped)

    real_write = os.write

    def half(descriptor: int, block: bytes) -> int:
        if at("half of the witness"):
            real_write(descriptor, block[: len(block) // 2])
            die()
        return real_write(descriptor, block)

    witness.os.write = half  # type: ignore[assignment]
    around(audit.AuditLog, "_move", before="in the group")
    around(audit.AuditLog, "append_all", after="before its commit")
    around(witness.LockedWitness, "append", before="before the witness", after="after the witness")
    around(witness.os, "fsync", before="before the fsync")
    set_checkpoint = log.set_checkpoint

    def kept(*given: Any, **named: Any) -> None:
        with database.transaction() as connection:
            set_checkpoint(*given, within=connection, **named)
            if at("before the head's commit"):
                die()

    log.set_checkpoint = kept  # type: ignore[method-assign]
    for now in range(1, ROUNDS + 1):
        writer = AuditWriter(log)
        for count in range(GROUP):
            writer.enqueue(DEV, "ann", "data.read", f"pred_{count}")
        writer.close()
        print(now * GROUP, flush=True)
        if at("after its commit"):
            die()
        checkpointing.sign(DEV)
        if at("after the round"):
            die()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
