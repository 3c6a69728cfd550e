"""Processors that others take, or a limit: found by the second look, and never for what we use ourselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.operations import processors
from antiphon.operations.processors import LimitWatch, ProcessorWatch


class Machine:
    """Two processors; ``waits`` and what is used, by second, as the test says."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.at = self.waited = self.busy = self.own = 0.0
        self.looked_at_all = 0
        patch.setattr(processors.time, "monotonic", lambda: self.at)
        patch.setattr(processors.os, "cpu_count", lambda: 2)
        patch.setattr(processors, "waited_seconds", lambda pid, loops: {pid: self.waited})
        patch.setattr(processors, "_used", self._used)

    def _used(self, own: object) -> tuple[float, float]:
        self.looked_at_all += 1
        return self.busy, self.own

    def passes(self, waits: float, others: float, own: float) -> None:
        """Five seconds, with the share of waiting and of both processors that are used."""
        self.at += 5.0
        self.waited += 5.0 * waits
        self.own += 10.0 * own
        self.busy += 10.0 * (others + own)


def test_what_others_take_is_found_by_the_second_look_and_is_over_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, watch, pids = Machine(monkeypatch), ProcessorWatch(), {"gateway": 7}
    assert watch.look(pids, {7}) is None
    found = []
    for waits, others in ((0.01, 0.1), (0.6, 0.9), (0.6, 0.9), (0.6, 0.9), (0.02, 0.1)):
        machine.passes(waits, others, own=0.1)
        found.append(watch.look(pids, {7}))
    assert [one is not None for one in found] == [False, False, True, True, False]
    assert found[2] is not None
    assert (found[2].process, round(found[2].waited, 2), round(found[2].taken, 2)) == ("gateway", 0.6, 0.9)
    # All processes of the machine are read only while one of ours waits.
    assert machine.looked_at_all == 3


def test_our_own_load_takes_nothing_from_us(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, watch = Machine(monkeypatch), ProcessorWatch()
    for _ in range(5):
        assert watch.look({"engine": 7}, {7}) is None
        machine.passes(0.7, others=0.05, own=0.95)


def test_a_process_that_was_started_again_has_waited_for_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, watch = Machine(monkeypatch), ProcessorWatch()
    for pid in (7, 8, 9):
        assert watch.look({"engine": pid}, {pid}) is None
        machine.passes(0.7, others=0.9, own=0.1)


def test_a_limit_that_ends_most_periods_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, watch, counts = Machine(monkeypatch), LimitWatch(), {7: (100, 0), 8: (100, 90)}
    monkeypatch.setattr(processors, "_limited_periods", lambda pid: counts.get(pid))
    pids = {"gateway": 7, "worker": 8, "engine": 9}
    machine.at = 10.0
    assert watch.look(pids) == {}
    machine.at, counts = 15.0, {7: (150, 45), 8: (150, 92)}
    assert watch.look(pids) == {"gateway": 0.9}
    machine.at, counts = 16.0, {7: (160, 45), 8: (160, 92)}
    assert watch.look(pids) == {"gateway": 0.9}
    machine.at = 20.0
    assert watch.look(pids) == {}


def test_a_process_with_another_pid_was_held_back_by_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, watch = Machine(monkeypatch), LimitWatch()
    monkeypatch.setattr(processors, "_limited_periods", lambda pid: (100 * pid, 100 * pid))
    for pid in (7, 8, 9):
        machine.at += 5.0
        assert watch.look({"gateway": pid}) == {}


@pytest.mark.parametrize(
    ("line", "folder"), [("0::/app.slice", "app.slice"), ("3:cpu,cpuacct:/app", "cpu,cpuacct/app"), ("1:cpu:/", "cpu")]
)
def test_both_kinds_of_control_groups_are_read(
    line: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "cpu.stat").write_text("nr_periods 20\nnr_throttled 12\nthrottled_time 5\n")
    read = Path.read_text

    def text(self: Path, *args: str, **more: str) -> str:
        return f"9:memory:/x\n{line}\n" if str(self) == "/proc/7/cgroup" else read(self, *args, **more)

    monkeypatch.setattr(Path, "read_text", text)
    assert processors._limited_periods(7, tmp_path) == (20, 12)
    assert processors._limited_periods(2**30, tmp_path) is None
