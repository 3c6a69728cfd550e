"""The clock of a real process set apart from the machine's, and given back whatever ends the fault."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.integration.operations.chaos.test_guardians import ends, order, record, runner, state, until

from antiphon.core.child_process import start_child
from antiphon.core.errors import NotFoundError, UnavailableError
from antiphon.operations.chaos import clock_injector
from antiphon.operations.chaos.clock_injector import (
    ClockInjector,
    VirtualObject,
    clock_obstacle,
    own_object,
    skewed_functions,
)
from antiphon.operations.chaos.faults import ClockSkew
from antiphon.operations.chaos.guarded_fault import guarded
from antiphon.operations.chaos.guardian import RUNNER_GONE
from antiphon.operations.processes import started_ticks

# Three threads read the clock without end, so that code is exchanged beside its callers.
CHILD = """
import ctypes, json, sys, threading, time
from datetime import UTC, datetime
libc = ctypes.CDLL(None)
libc.time.restype = ctypes.c_int64
wrong = []

def read():
    last = time.monotonic()
    while True:
        now = time.monotonic()
        time.time()
        if now < last or now > last + 60:
            wrong.append((last, now))
        last = now

for _ in range(3):
    threading.Thread(target=read, daemon=True).start()
for line in sys.stdin:
    pair = (ctypes.c_int64 * 2)()
    libc.gettimeofday(pair, None)
    known = ctypes.c_int64()
    told = libc.time(ctypes.byref(known))
    print(json.dumps({
        "clock_gettime": time.time(), "gettimeofday": pair[0] + pair[1] / 1e6, "time": told, "known": known.value,
        "datetime": datetime.now(UTC).timestamp(), "monotonic": time.monotonic(), "wrong": wrong,
    }), flush=True)
"""

WALL = ("clock_gettime", "gettimeofday", "time", "known", "datetime")


class Clock:
    """A process that tells the time it reads."""

    def __init__(self) -> None:
        self.process = start_child(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.apart()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def told(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, float] = msgspec.json.decode(self.process.stdout.readline())
        assert not found.pop("wrong"), "its monotonic clock jumped"
        assert found["monotonic"] == pytest.approx(time.monotonic(), abs=2)
        return found

    def apart(self) -> int:
        """Seconds by which all of its clocks are ahead of the machine's.

        The skew may begin or end in the middle of one reading, whose clocks then disagree: read once more.
        """
        for _ in range(2):
            told, now = self.told(), time.time()
            found = {round((told[name] - now) / 10) * 10 for name in WALL}
            if len(found) == 1:
                return found.pop()
        pytest.fail(f"its clocks disagree: {told}")

    def memory(self) -> bytes:
        with Path(f"/proc/{self.process.pid}/mem").open("rb") as memory:
            return VirtualObject.of(self.process.pid, memory.fileno()).content


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    found = Clock()
    record(tmp_path, found.process.pid)
    if clock_obstacle(tmp_path):
        found.end()
        pytest.skip(clock_obstacle(tmp_path))
    yield found
    found.end()


@pytest.mark.parametrize(("by", "seconds"), [("5m", 300), ("-2h", -7_200), ("90s", 90)])
async def test_every_clock_of_one_process_is_apart_and_the_machines_is_not(
    tmp_path: Path, clock: Clock, by: str, seconds: int
) -> None:
    async with guarded(order(tmp_path, ClockSkew("worker", "600s", by))) as fault:
        assert fault.touched == (f"worker (process {clock.process.pid})",)
        assert clock.apart() == seconds
        assert state(clock.process.pid) != "T"
        other = Clock()
        assert other.apart() == 0, "of another process"
        other.end()
    assert clock.apart() == 0
    assert clock.memory() == own_object().content
    assert ends(tmp_path) == ["the experiment ended it"]


def test_a_skew_ends_when_the_runner_is_killed(tmp_path: Path, clock: Clock) -> None:
    with runner(tmp_path, ClockSkew("worker", "600s", "5m")) as (process, _):
        assert clock.apart() == 300
        process.kill()
        until(lambda: ends(tmp_path) == [RUNNER_GONE])
        assert clock.apart() == 0
        assert clock.memory() == own_object().content


def test_a_skew_ends_in_its_time_also_when_its_guardian_is_killed(tmp_path: Path, clock: Clock) -> None:
    with runner(tmp_path, ClockSkew("worker", "2s", "-5m")) as (_, guardian):
        os.kill(guardian, signal.SIGKILL)
        until(lambda: started_ticks(guardian) is None)
        assert clock.apart() == -300
        until(lambda: clock.apart() == 0, 10)
    assert clock.memory() != own_object().content
    injector = ClockInjector(ClockSkew("worker", "60s", "5m"), tmp_path, "worker")
    injector.begin()
    assert clock.apart() == 300
    injector.end()
    assert clock.memory() == own_object().content, "what the killed guardian left is gone too"


def test_it_is_begun_and_ended_again_and_again_beside_threads_that_read_the_clock(tmp_path: Path, clock: Clock) -> None:
    for turn in range(30):
        injector = ClockInjector(ClockSkew("worker", "60s", f"{(turn + 1) * 10}s"), tmp_path, "worker")
        injector.begin()
        assert clock.apart() == (turn + 1) * 10
        injector.end()
        assert clock.apart() == 0


def test_code_is_not_exchanged_under_a_thread_that_is_within_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(f"/proc/{clock.process.pid}/mem").open("rb") as memory:
        there = VirtualObject.of(clock.process.pid, memory.fileno()).address
    monkeypatch.setattr(clock_injector, "_CLEAR_SECONDS", 0.05)
    for at in (there + 8, None):
        monkeypatch.setattr(clock_injector, "_instructions", lambda pid, at=at: iter([0, at]))
        injector = ClockInjector(ClockSkew("worker", "60s", "5m"), tmp_path, "worker")
        with pytest.raises(UnavailableError, match="reads the clock all the time"):
            injector.begin()
        injector.end()
        assert clock.memory() == own_object().content
        assert state(clock.process.pid) != "T"


def test_a_process_that_ended_or_may_not_be_touched_is_told(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    injector = ClockInjector(ClockSkew("worker", "60s", "5m"), tmp_path, "worker")
    injector.begin()
    clock.end()
    injector.end()
    with pytest.raises(NotFoundError):
        ClockInjector(ClockSkew("worker", "60s", "5m"), tmp_path, "worker").begin()
    assert clock_obstacle(tmp_path) == ""
    record(tmp_path, os.getpid())
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert "not set apart on riscv64" in clock_obstacle(tmp_path)


def test_the_functions_fit_where_the_kernel_has_its_own() -> None:
    places = own_object().functions()
    for name, code in skewed_functions(300, 2**40).items():
        assert len(code) <= places[name][1], name
