from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER, receipt

from antiphon.catalog.database import Database
from antiphon.catalog.learning.outcomes import Coverage, OutcomeRecord, Outcomes
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, NotFoundError


def outcome(identity: str, **fields: Any) -> OutcomeRecord:
    given: dict[str, Any] = {
        "scope": DEV,
        "application": "desk",
        "kind": "label",
        "status": "joined",
        "value": "delayed",
        "available_at": NOON + timedelta(hours=1),
        "created_at": NOON + timedelta(hours=2),
        "prediction": f"pred_{identity}",
        "release": "rel_1",
        "role": "live",
        "as_of": NOON,
        "probabilities": {"delayed": 0.25},
        "entity": {"origin": "EWR"},
        "outcome": "outlook" if fields.get("kind", "label") == "label" else "",
        "principal": "me",
        "reference": identity,
    }
    return OutcomeRecord(id=identity, **(given | fields))


def test_an_outcome_is_read_back_as_it_was_written(database: Database) -> None:
    outcomes = Outcomes(database)
    written = outcome("a")
    outcomes.add(written)
    assert outcomes.get(DEV, "a") == written
    assert outcomes.find(DEV, ["a", "b"]) == {"a": written}
    assert outcomes.of_prediction(DEV, "pred_a") == [written]
    with pytest.raises(ConflictError):
        outcomes.add(written)
    with pytest.raises(NotFoundError):
        outcomes.get(OTHER, "a")


def test_labels_are_the_joined_ones(database: Database) -> None:
    outcomes = Outcomes(database)
    outcomes.add(outcome("a"))
    outcomes.add(outcome("b", prediction="pred_a", status="contradictory", value="on_time"))
    outcomes.add(outcome("c", prediction="pred_a", kind="thumbs", value="up"))
    outcomes.add(outcome("d", value="on_time"))
    asked = [f"pred_{number}" for number in range(1_000)] + ["pred_a", "pred_d"]
    assert outcomes.values(DEV, asked, "outlook") == {"pred_a": "delayed", "pred_d": "on_time"}
    assert len(outcomes.joined(DEV, ["pred_a"])) == 2
    assert outcomes.counts(DEV, "desk") == {"label": {"contradictory": 1, "joined": 2}, "thumbs": {"joined": 1}}
    assert outcomes.counts(OTHER) == {}


def test_scored_outcomes_are_bounded_by_moment_role_and_time_of_joining(database: Database) -> None:
    outcomes = Outcomes(database)
    for number in range(4):
        outcomes.add(
            outcome(
                str(number),
                as_of=NOON + timedelta(hours=number),
                created_at=NOON + timedelta(days=1 + number),
                role="canary" if number == 1 else "live",
            )
        )
    outcomes.add(outcome("late", status="late"))
    outcomes.add(outcome("thumb", kind="thumbs", value="up"))

    def found(**bounds: Any) -> list[str]:
        return [each.id for each in outcomes.scored(DEV, "desk", "outlook", **bounds)]

    assert found() == ["0", "1", "2", "3"]
    assert found(since=NOON + timedelta(hours=1), until=NOON + timedelta(hours=3)) == ["1", "2"]
    assert found(roles=("canary",)) == ["1"]
    assert found(recorded_until=NOON + timedelta(days=2)) == ["0", "1"]


def test_pages_and_unknown_ones(database: Database) -> None:
    outcomes = Outcomes(database)
    for number in range(5):
        status = "unknown" if number % 2 == 0 else "joined"
        # Equal instants: a page must neither lose nor repeat an outcome at its edge.
        outcomes.add(outcome(f"o{number}", status=status, created_at=NOON, prediction=None))
    first = outcomes.unknown(DEV, "desk", limit=2)
    assert [each.id for each in first] == ["o4", "o2"]
    assert [each.id for each in outcomes.unknown(DEV, after=first[-1])] == ["o0"]
    assert outcomes.unknown(DEV, since=NOON + timedelta(seconds=1)) == []
    assert [each.id for each in outcomes.list(DEV, "desk", limit=2)] == ["o4", "o3"]
    assert [each.id for each in outcomes.list(DEV, status="joined")] == ["o3", "o1"]
    assert outcomes.list(DEV, before=NOON) == []


def test_an_unknown_one_is_replaced_once(database: Database) -> None:
    outcomes = Outcomes(database)
    unknown = outcome("u", status="unknown", prediction=None)
    outcomes.add(unknown)
    by = [outcome("u1"), outcome("u2")]
    assert outcomes.replace(unknown, by) is True
    assert outcomes.replace(unknown, [outcome("u3")]) is False
    assert sorted(outcomes.find(DEV, ["u", "u1", "u2", "u3"])) == ["u1", "u2"]


def test_coverage_counts_what_users_saw(database: Database) -> None:
    receipts, outcomes = Receipts(database), Outcomes(database)
    for number, role in enumerate(("live", "live", "canary", "shadow", "evaluation")):
        receipts.add(receipt(f"p{number}", role=role))
    receipts.add(receipt("other", release="rel_2"))
    outcomes.add(outcome("a", prediction="p0"))
    outcomes.add(outcome("b", prediction="p0", status="duplicate"))
    outcomes.add(outcome("c", prediction="p1", kind="thumbs", value="up"))
    assert outcomes.coverage(DEV, "desk", "outlook") == [Coverage("rel_1", 3, 1), Coverage("rel_2", 1, 0)]


def test_an_instant_is_the_clocks_to_the_microsecond(database: Database, clock: ManualClock) -> None:
    clock.advance(timedelta(microseconds=7))
    assert Outcomes(database).instant() == clock.now()


def test_outcomes_from_before_a_field_existed_are_read(database: Database) -> None:
    plain = msgspec.to_builtins(outcome("a"))
    for name in ("reference", "named", "at"):
        del plain[name]
    assert msgspec.convert(plain, OutcomeRecord).reference == ""
