"""SIGKILL between group and checkpoint at every step: what was told to be written is there, and the log verifies."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.governance.audit import audit_child
from tests.unit.catalog.examples import DEV, open_database

from antiphon.governance.audit.checkpoint_key import CheckpointKey
from antiphon.governance.audit.checkpointing import CheckpointSigner
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.verification import verify
from antiphon.governance.audit.witness import Witness

KEY = CheckpointKey(audit_child.SEED)


@pytest.mark.chaos
@pytest.mark.parametrize("step", audit_child.STEPS)
def test_a_kill_leaves_a_log_that_verifies(tmp_path: Path, step: str) -> None:
    number = 2
    child = [sys.executable, "-m", audit_child.__name__, str(tmp_path), step, str(number)]
    done = subprocess.run(child, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[4])
    assert done.returncode == -signal.SIGKILL, done.stderr
    told = int(done.stdout.split()[-1])

    database = open_database(tmp_path)
    log, witness = AuditLog(database, audit_child.SECRET), Witness(tmp_path / "witness")
    found = verify(log, DEV, key=KEY, checkpoints=witness.read().of(KEY.origin(DEV)))
    assert found.sound, found.problems
    assert found.entries >= told
    assert found.entries % audit_child.GROUP == 0 or found.entries > told
    newest = max(one.size for one in witness.read().checkpoints)
    assert newest in (told, told - audit_child.GROUP) or newest == found.entries
    kept = log.head(DEV).checkpoint
    assert kept.split("\n")[1] in {str(one.size) for one in witness.read().checkpoints}

    # The next process goes on: nothing has to be mended by hand.
    log.append(DEV, "ann", "release.activate", "rel_1")
    signed = CheckpointSigner(log, KEY, witness).sign(DEV)
    assert signed is not None
    assert signed.size == found.entries + 1
    whole = witness.read()
    assert (whole.problems, whole.torn) == ((), 0)
    assert verify(log, DEV, key=KEY, checkpoints=whole.of(KEY.origin(DEV))).checkpoints == len(whole.checkpoints) + 1
    database.close()
