"""Are our processes kept from the machine's processors, by others or by a limit of theirs? From ``/proc`` and control
groups; where there are none, nothing is."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from antiphon.operations.processes import waited_seconds

LEAST_WAITED = 0.3
"""Share of the time for which a main thread waited for a processor, from which it is kept from its work."""

LEAST_TAKEN = 0.5
"""Share of all processors that others used meanwhile, from which it is they who keep it."""

LEAST_LIMITED = 0.5
"""Share of the periods in which it computed, from which a process is kept from its work by its limit."""

_LEAST_PERIODS = 5
"""Periods are mostly of a tenth of a second: fewer tell nothing."""

_SHORTEST_SECONDS = 3.0
"""Looks that are closer together say little."""


class ProcessorShortage(msgspec.Struct, frozen=True):
    """Others keep a process from the processors: by which share of the time, and what they used of all processors."""

    process: str
    waited: float
    taken: float


class _Look(msgspec.Struct, frozen=True):
    at: float
    waited: Mapping[str, tuple[int, float]]
    used: tuple[float, float] | None = None


class ProcessorWatch:
    """Compares one look with the one before. Not safe to share between threads."""

    def __init__(self) -> None:
        self._last: _Look | None = None
        self._found: ProcessorShortage | None = None

    def look(self, pids: Mapping[str, int], own: Collection[int]) -> ProcessorShortage | None:
        """The process that others keep most from its work since the look before; found by the second look that sees it.

        Args:
            pids: processes that users wait for, by name.
            own: leaders of the sessions whose use of processors is ours.
        """
        last, now = self._last, time.monotonic()
        if last is not None and now - last.at < _SHORTEST_SECONDS:
            return self._found
        waited = {name: (pid, waited_seconds(pid, ()).get(pid, 0.0)) for name, pid in pids.items()}
        self._last, self._found = _Look(now, waited), None
        if last is None:
            return None
        seconds = now - last.at
        shares = {
            name: (total - last.waited[name][1]) / seconds
            for name, (pid, total) in waited.items()
            if name in last.waited and last.waited[name][0] == pid
        }
        name = max(sorted(shares), key=lambda one: shares[one], default="")
        if not name or shares[name] < LEAST_WAITED:
            return None
        # Only now: every process of the machine is looked at.
        used = _used(own)
        self._last = _Look(now, waited, used)
        if last.used is not None:
            others = (used[0] - last.used[0]) - max(0.0, used[1] - last.used[1])
            taken = others / seconds / (os.cpu_count() or 1)
            if taken >= LEAST_TAKEN:
                self._found = ProcessorShortage(name, min(1.0, shares[name]), min(1.0, taken))
        return self._found


class LimitWatch:
    """Compares the limits of processes at one look with those at the one before. Not safe to share between threads."""

    def __init__(self) -> None:
        self._at = 0.0
        self._last: dict[str, tuple[int, int, int]] = {}
        self._found: dict[str, float] = {}

    def look(self, pids: Mapping[str, int]) -> Mapping[str, float]:
        """Processes that their control group's limit keeps from their work since the look before, with the share of
        its periods in which it did."""
        now = time.monotonic()
        if now - self._at < _SHORTEST_SECONDS:
            return self._found
        last, self._at, self._last, self._found = self._last, now, {}, {}
        for name, pid in pids.items():
            if (counts := _limited_periods(pid)) is None:
                continue
            self._last[name] = (pid, *counts)
            known, periods, limited = last.get(name, (0, 0, 0))
            if known == pid and counts[0] - periods >= _LEAST_PERIODS:
                share = (counts[1] - limited) / (counts[0] - periods)
                if share >= LEAST_LIMITED:
                    self._found[name] = min(1.0, share)
        return self._found


def _limited_periods(pid: int, root: Path = Path("/sys/fs/cgroup")) -> tuple[int, int] | None:
    """In how many periods a process's control group computed, and in how many of these its limit ended that."""
    with suppress(OSError, ValueError, KeyError):
        for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" or "cpu" in controllers.split(","):
                file = root / controllers.replace("name=", "") / path.lstrip("/") / "cpu.stat"
                if file.is_file():
                    counts = dict(row.split() for row in file.read_text(encoding="ascii").splitlines())
                    if "nr_periods" in counts:
                        return int(counts["nr_periods"]), int(counts["nr_throttled"])
    return None


def _used(sessions: Collection[int]) -> tuple[float, float]:
    """Processor seconds of the whole machine, those that a host above it took included, and of some sessions."""
    tick = os.sysconf("SC_CLK_TCK")
    try:
        user, nice, system, _, _, hard, soft, steal = map(int, Path("/proc/stat").read_text("ascii").split()[1:9])
    except (OSError, ValueError):
        return 0.0, 0.0
    ours = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):  # It ends as it is read.
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) in sessions:
                ours += int(fields[11]) + int(fields[12])
    return (user + nice + system + hard + soft + steal) / tick, ours / tick
