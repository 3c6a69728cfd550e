"""The feature platform under SIGKILL, short; and that the harness finds what breaks when a defence is off.

The long forms are ``make chaos-features``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.durability import feature_chaos, feature_crowd
from benchmarks.durability.feature_crowd_harness import STRIKES, Harness
from tests.chaos.harness.feature_chaos_lives import Crowd, Lives
from tests.chaos.harness.feature_crowd_child import ROLES


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    lives = Lives(tmp_path_factory.mktemp("lives"))
    yield lives
    lives.close()


@pytest.mark.chaos
def test_killed_at_random_moments_nothing_is_lost_wrong_or_left_behind(tmp_path: Path, lives: Lives) -> None:
    report = feature_chaos.measure(tmp_path, 6, 20130410, turns=1, lives=lives)
    assert report.violations == {name: [] for name in report.violations}, feature_chaos.table(report)
    assert len(report.violations) == 10, "a check was not made"
    assert len(report.kills) == 6
    assert len({kill.phase for kill in report.kills}) >= 3, "the kills fell into one phase"
    assert report.values > 1_000, "hardly anything was read"


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("broken", "operation", "check", "words"),
    [
        ("offset-first", "consume: overlay apply", "values right when settled", "was read as"),
        ("flip-first", "refresh: publish", "values right at once", "cannot be read"),
    ],
)
def test_a_defence_that_is_off_is_found(
    tmp_path: Path, lives: Lives, broken: str, operation: str, check: str, words: str
) -> None:
    report = feature_chaos.measure(tmp_path, 12, 7, broken=broken, only=operation, turns=1, lives=lives)
    assert any(words in one for one in report.violations[check]), feature_chaos.table(report)


@pytest.mark.chaos
def test_killed_with_redis_online_as_well(tmp_path: Path, lives: Lives) -> None:
    with feature_chaos.server() as redis:
        report = feature_chaos.measure(tmp_path, 2, 3, redis=redis, only="refresh", turns=1, lives=lives)
    assert report.violations == {name: [] for name in report.violations}, feature_chaos.table(report)
    assert report.values > 300, "hardly anything was read"


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    crowd = Crowd(tmp_path_factory.mktemp("crowd"), [*ROLES, "settle"])
    yield crowd
    crowd.close()


@pytest.mark.chaos
def test_ten_processes_at_once_killed_and_without_power_break_nothing(tmp_path: Path, crowd: Crowd) -> None:
    report = feature_crowd.measure(tmp_path, 2, 5, crowd=crowd)
    assert report.violations == {name: [] for name in report.violations}, feature_crowd.table(report)
    assert len(report.violations) == 13, "a check was not made"
    assert (len(report.kills), report.power_cuts) == (2 * (STRIKES + len(ROLES)), 1)
    assert report.readings > 30, "hardly anything was read"
    assert report.predictions >= 3
    assert report.datasets >= 1


@pytest.mark.chaos
def test_files_that_were_not_synced_are_missed_after_a_power_cut(tmp_path: Path, crowd: Crowd) -> None:
    """The other defences among processes are switched off by ``make chaos-features``."""
    for unsafe in (None, "unsynced"):
        harness = Harness(tmp_path / str(unsafe), 11, unsafe=unsafe, crowd=crowd)
        harness.prepare()
        harness.cut_power()
        missed = [one for wrong in harness.violations.values() for one in wrong]
        assert any("which is missing" in one for one in missed) == (unsafe is not None), missed
