from __future__ import annotations

from pathlib import Path


def session_nice(pid: int) -> int | None:
    """The nice value of a process's session; ``None`` where there is none."""
    try:
        return int(Path(f"/proc/{pid}/autogroup").read_text(encoding="ascii").rpartition(" ")[2])
    except (OSError, ValueError):
        return None
