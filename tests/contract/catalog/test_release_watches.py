"""Watches of live releases and their decisions, on both catalogs."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from sqlalchemy.exc import IntegrityError
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.learning.outcomes import OutcomeRecord, Outcomes
from antiphon.catalog.releases.watches import MeasureEvidence, ReleaseWatches, WatchDecision, WatchRecord
from antiphon.core.errors import ConflictError


@pytest.fixture
def watches(database: Database) -> ReleaseWatches:
    return ReleaseWatches(database)


def record(minutes: int = 0, sequence: int = 2) -> WatchRecord:
    at = NOON + timedelta(minutes=minutes)
    measures = {"errors": MeasureEvidence("errors", 0.04, blocks={"000000001": [1.0, 20.0]}, units=20.0, mean=0.05)}
    return WatchRecord(DEV, "desk", "rel_2", sequence, NOON, at, at, at, measures)


def decision(id: str = "wdec_1", measure: str = "errors", done: bool = True) -> WatchDecision:
    return WatchDecision(
        id, DEV, "desk", "rel_2", 2, measure, "roll_back", "roll_back", "It failed.", 20.0, 0.5, 0.04, 9.0, 6.6, NOON,
        to="rel_1", done_at=NOON if done else None,
    )  # fmt: skip


def test_of_two_that_read_at_the_same_evidence_one_is_kept(watches: ReleaseWatches, database: Database) -> None:
    assert watches.get(DEV, "desk", 2) is None
    with database.transaction() as connection:
        watches.put(record(), None, within=connection)
    with pytest.raises(ConflictError), database.transaction() as connection:
        watches.put(record(1), None, within=connection)
    with database.transaction() as connection:
        watches.put(record(1), record(), within=connection)
    with pytest.raises(ConflictError), database.transaction() as connection:
        watches.put(record(2), record(), within=connection)
    assert watches.get(DEV, "desk", 2) == record(1)
    assert (watches.get(OTHER, "desk", 2), watches.of_release(OTHER, "rel_2")) == (None, None)
    with database.transaction() as connection:
        watches.put(record(3, sequence=4), None, within=connection)
    assert watches.of_release(DEV, "rel_2") == record(3, sequence=4)


def test_a_measure_is_decided_once_of_a_move_and_done_once(watches: ReleaseWatches, database: Database) -> None:
    with database.transaction() as connection:
        watches.decide(decision(done=False), within=connection)
        watches.decide(decision("wdec_2", "quality"), within=connection)
    with pytest.raises(IntegrityError), database.transaction() as connection:
        watches.decide(decision("wdec_3"), within=connection)
    assert [one.id for one in watches.decisions(DEV, "desk")] == ["wdec_2", "wdec_1"]
    assert [one.id for one in watches.pending(DEV)] == ["wdec_1"]
    done = msgspec.structs.replace(decision(), decision="hold", done_at=NOON + timedelta(minutes=1))
    with database.transaction() as connection:
        watches.done(done, within=connection)
    assert watches.pending(DEV) == ()
    assert watches.decisions(DEV, release="rel_2", activation=2)[1] == done
    assert watches.decisions(OTHER) == ()


def test_outcomes_of_a_release_are_read_on_from_a_moment_each_once(database: Database) -> None:
    outcomes = Outcomes(database)
    for number in range(7):
        at = NOON + timedelta(seconds=number // 3)
        outcomes.add(
            OutcomeRecord(
                f"o{number}", DEV, "desk", "label", "joined", "late", at, at, prediction=f"p{number}",
                release="rel_2" if number != 1 else "rel_1", role="live", as_of=at, outcome="late",
                probabilities={"late": 0.5},
            )
        )  # fmt: skip
    since, seen = NOON - timedelta(seconds=1), []
    until = NOON + timedelta(seconds=9)
    while found := outcomes.newly_joined(DEV, "desk", "late", since, until, 2, release="rel_2"):
        seen += [one.id for one in found]
        since = found[-1].created_at
    assert seen == ["o0", "o2", "o3", "o4", "o5", "o6"]
    assert outcomes.newly_joined(OTHER, "desk", "late", since, NOON, 2, release="rel_2") == []
    since = NOON - timedelta(seconds=1)
    assert len(outcomes.newly_joined(DEV, "desk", "late", since, until, 9)) == 7
    # Those of a moment are not divided: of the newest two or three.
    begin = outcomes.begin_of_newest(DEV, "desk", "late", since, 2)
    assert [one.id for one in outcomes.newly_joined(DEV, "desk", "late", begin, until, 9)] == ["o6"]
    assert outcomes.begin_of_newest(DEV, "desk", "late", since, 7) == since
