"""Control groups that hold processes to a share of one core, so that few cores can show what more of them would.

It is the quota of the kernel's bandwidth control (cgroup v1, ``cpu.cfs_quota_us``), for root. The period is short: a
process that is held in the middle of a transaction must not keep the others waiting for long.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup/cpu")
PREFIX = "antiphon-bench-"
PERIOD_MICROSECONDS = 10_000
WEIGHT = 10_240
"""Ten times that of a process: what else runs on the machine must not take the share away."""
_JOIN = 'echo $$ > "$0" && exec "$@"'


class CpuGroup:
    """One group; a command that starts under :attr:`command` runs in it with all its threads and children."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def command(self) -> tuple[str, ...]:
        return ("/bin/sh", "-c", _JOIN, str(self._path / "cgroup.procs"))

    def periods(self) -> tuple[int, int]:
        """Periods in which it ran so far, and those of them in which it used its share up and was held."""
        found = dict(line.split() for line in (self._path / "cpu.stat").read_text().splitlines())
        return int(found["nr_periods"]), int(found["nr_throttled"])


def available() -> bool:
    """Whether groups can be made here."""
    return (ROOT / "cpu.cfs_quota_us").exists() and os.access(ROOT, os.W_OK)


@contextmanager
def cpu_groups(number: int, share: float) -> Iterator[list[CpuGroup]]:
    """Groups that get ``share`` of a core each; they are removed at the end, as those of a run that was killed are.

    Raises:
        OSError: they cannot be made here.
    """
    for left in ROOT.glob(f"{PREFIX}*"):
        with suppress(OSError):  # One that has processes is of a run beside this one.
            left.rmdir()
    made: list[Path] = []
    try:
        for one in range(number):
            path = ROOT / f"{PREFIX}{os.getpid()}-{one}"
            path.mkdir()
            made.append(path)
            (path / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
            (path / "cpu.cfs_quota_us").write_text(str(int(share * PERIOD_MICROSECONDS)))
            (path / "cpu.shares").write_text(str(WEIGHT))
        yield [CpuGroup(path) for path in made]
    finally:
        for path in made:
            with suppress(OSError):  # The kernel takes a moment after the last process has ended: the next run does it.
                path.rmdir()
