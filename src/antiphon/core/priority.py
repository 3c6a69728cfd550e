"""Priority of a process beside those of other sessions.

Linux may schedule sessions against each other before it looks at their processes (autogroups, ``sched(7)``): then nice
values and SCHED_IDLE only say who comes first *within* a session, and a process that leads one of its own takes as much
as all of another session together, whatever its nice value. The session then needs a nice value of its own.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def lower_session(pid: int, nice: int) -> bool:
    """Give the session that a process leads a nice value; whether the kernel has sessions to weigh and took it.

    Where processes stand in cgroups of their own, those weigh and this changes nothing.
    """
    group = Path(f"/proc/{pid}/autogroup")
    with suppress(OSError):
        if os.getsid(pid) == pid and group.exists():
            group.write_text(str(nice), encoding="ascii")
            return True
    return False


def session_nice(pid: int) -> int | None:
    """The nice value of a process's session; ``None`` where there is none."""
    try:
        return int(Path(f"/proc/{pid}/autogroup").read_text(encoding="ascii").rpartition(" ")[2])
    except (OSError, ValueError):
        return None
