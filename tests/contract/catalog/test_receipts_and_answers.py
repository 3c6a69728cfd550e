from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER, answer, receipt

from antiphon.catalog.database import Database
from antiphon.catalog.serving.answers import Answers
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import CacheReceipt, FeatureReceipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.errors import ConflictError, NotFoundError


def test_a_receipt_and_its_texts_are_read_back(database: Database) -> None:
    receipts = Receipts(database)
    receipts.add(receipt("p1"), [b"the prompt", b"the text"])
    assert receipts.get(DEV, "p1") == receipt("p1")
    digest = Blobs(database).put(OTHER, b"the text")
    assert Blobs(database).get(DEV, digest) == b"the text"
    with pytest.raises(NotFoundError, match="no prediction"):
        receipts.get(OTHER, "p1")
    receipts.add(receipt("p2", application="other"))
    assert receipts.applications(DEV, ["p2", "p1", "gone"]) == {"p1": "desk", "p2": "other"}
    assert receipts.applications(OTHER, ["p1"]) == {}


@pytest.mark.parametrize("value", [None, True, 7, 0.5, "gold"])
def test_a_feature_of_any_kind_is_read_back(database: Database, value: float | int | str | bool | None) -> None:
    feature = FeatureReceipt("view.feature", value, None, "v1", None, NOON, 1.0, "fresh")
    Receipts(database).add(receipt("p1", features=(feature,)))
    (found,) = Receipts(database).get(DEV, "p1").features
    assert (found.value, type(found.value)) == (value, type(value))


def test_a_prediction_has_one_receipt(database: Database) -> None:
    receipts = Receipts(database)
    receipts.add(receipt("p1"))
    with pytest.raises(ConflictError, match="has a receipt already"):
        receipts.add(receipt("p1", application="changed"))
    assert receipts.get(DEV, "p1").application == "desk"


def test_receipts_of_a_span_are_read_page_by_page_each_once(database: Database) -> None:
    receipts = Receipts(database)
    assert receipts.began(DEV, "desk") is None
    for number in range(7):  # Two of a moment.
        receipts.add(receipt(f"p{number}", created_at=NOON + timedelta(seconds=number // 2)))
    receipts.add(receipt("shadow", role="shadow"))
    receipts.add(receipt("stand-in", role="degraded"))
    receipts.add(receipt("elsewhere", application="other"))
    receipts.add(receipt("foreign", OTHER))
    receipts.add(receipt("later", created_at=NOON + timedelta(days=1)))
    for limit in (1, 2, 3, 100):
        found: list[str] = []
        after = None
        while page := receipts.page(DEV, "desk", NOON, NOON + timedelta(days=1), after, limit):
            assert len(page) <= limit
            found += [one.prediction for one in page]
            after = receipts.place(page[-1])
        assert found == ["p0", "p1", "stand-in", "p2", "p3", "p4", "p5", "p6"]
    assert receipts.began(DEV, "desk") == NOON


def test_receipts_are_listed_latest_first_by_what_they_are_about(database: Database) -> None:
    receipts = Receipts(database)
    for number in range(6):
        receipts.add(
            receipt(
                f"p{number}",
                created_at=NOON + timedelta(seconds=number),
                path="batch" if number % 2 else "online",
                application="desk" if number < 4 else "other",
                subject=f"s{number % 3}",
            )
        )
    receipts.add(receipt("foreign", OTHER))

    def listed(**which: object) -> list[str]:
        return [r.prediction for r in receipts.list(DEV, **which)]  # type: ignore[arg-type]

    assert listed() == ["p5", "p4", "p3", "p2", "p1", "p0"]
    assert listed(limit=2) == ["p5", "p4"]
    assert listed(before=NOON + timedelta(seconds=4), limit=2) == ["p3", "p2"]
    assert listed(since=NOON + timedelta(seconds=4)) == ["p5", "p4"]
    assert listed(application="other") == ["p5", "p4"]
    assert listed(path="batch") == ["p5", "p3", "p1"]
    assert listed(subject="s0") == ["p3", "p0"]


def test_receipts_are_counted_by_application_and_path(database: Database) -> None:
    receipts = Receipts(database)
    receipts.add(receipt("p1"))
    receipts.add(receipt("p2", cache=CacheReceipt("stored", "p1", "batch")))
    receipts.add(receipt("p3", path="batch"))
    receipts.add(receipt("p4", path="batch", created_at=NOON + timedelta(hours=1)))
    assert receipts.count(DEV) == 4
    assert receipts.count(DEV, path="online") == 2
    assert receipts.count(DEV, application="other") == 0
    assert receipts.count(DEV, since=NOON + timedelta(minutes=1)) == 1


def test_the_answer_with_the_latest_event_time_is_found(database: Database) -> None:
    answers = Answers(database)
    assert answers.latest(DEV, "rel_1", "5b", "q") is None
    later = answer("later", NOON + timedelta(hours=2))
    answers.put(later)
    answers.put(answer("earlier", NOON))
    answers.put(answer("elsewhere", NOON + timedelta(hours=9), subject="7f"))
    assert answers.latest(DEV, "rel_1", "5b", "q") == later
    assert answers.latest(DEV, "rel_1", "5b", "q", as_of=NOON + timedelta(hours=1)) == answer("earlier", NOON)
    assert answers.latest(DEV, "rel_2", "5b", "q") is None
    assert answers.latest(OTHER, "rel_1", "5b", "q") is None


def test_an_answer_put_again_is_confirmed(database: Database) -> None:
    answers = Answers(database)
    answers.put(answer("p1", NOON))
    answers.put(answer("p2", NOON + timedelta(hours=1)))
    confirmed = answer("p1", NOON + timedelta(hours=2), made_path="online")
    answers.put(confirmed)
    assert answers.latest(DEV, "rel_1", "5b", "q") == confirmed


def test_an_identical_prompt_is_found_across_subjects_and_releases(database: Database) -> None:
    answers = Answers(database)
    answers.put(answer("p1", subject="7f", release="rel_9", prompt_key="same"))
    found = answers.by_prompt(DEV, "same")
    assert found is not None
    assert found.prediction == "p1"
    assert answers.by_prompt(DEV, "another") is None
    assert answers.by_prompt(OTHER, "same") is None


def test_answers_about_a_subject_are_forgotten(database: Database) -> None:
    answers = Answers(database)
    answers.put(answer("p1"))
    answers.put(answer("p2", subject="7f"))
    assert answers.forget(DEV, "5b") == 1
    assert answers.latest(DEV, "rel_1", "5b", "q") is None
    assert answers.latest(DEV, "rel_1", "7f", "q") is not None


def test_online_requests_are_counted_by_the_quarter_of_an_hour(database: Database) -> None:
    receipts, minute = Receipts(database), timedelta(minutes=1)
    for number, (at, changes) in enumerate(
        (
            (NOON - minute, {}),
            (NOON, {}),
            (NOON + 14 * minute, {}),
            (NOON + 15 * minute, {}),
            (NOON + minute, {"path": "batch"}),
            (NOON + minute, {"role": "shadow"}),
            (NOON + minute, {"scope": OTHER}),
        )
    ):
        receipts.add(receipt(f"pred_{number}", created_at=at, **changes))
    quarter = timedelta(minutes=15)
    assert receipts.by_quarter(DEV, NOON - quarter) == {NOON - quarter: 1, NOON: 2, NOON + quarter: 1}
    assert receipts.by_quarter(DEV, NOON + quarter) == {NOON + quarter: 1}
    assert receipts.by_quarter(DEV, NOON + quarter, "no-such-application") == {}


def test_online_requests_after_a_moment_are_counted_up_to_a_bound(database: Database) -> None:
    receipts, minute = Receipts(database), timedelta(minutes=1)
    served = msgspec.structs.replace(receipt("p").cache, origin="stored")
    for number, changes in enumerate(
        ({"created_at": NOON}, {}, {}, {"cache": served}, {"path": "batch"}, {"role": "shadow"}, {"scope": OTHER})
    ):
        receipts.add(receipt(f"pred_{number}", **{"created_at": NOON + minute, **changes}))
    assert receipts.counted(DEV, "desk", NOON, 100) == 3
    assert receipts.counted(DEV, "desk", NOON, 2) == 2
    assert receipts.counted(DEV, "desk", NOON, 100, generated=True) == 2
    assert receipts.counted(DEV, "other", NOON, 100) == 0
