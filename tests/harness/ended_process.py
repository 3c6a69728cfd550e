"""A process of this machine that has ended."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from antiphon.core.child_process import start_child
from antiphon.operations.processes import ProcessIdentity, started_ticks


def ended_process() -> ProcessIdentity:
    """The identity of one that was started, and is gone."""
    process = start_child([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ticks = started_ticks(process.pid)
    process.communicate()
    assert ticks is not None
    return msgspec.structs.replace(ProcessIdentity.own(), pid=process.pid, started_ticks=ticks)
