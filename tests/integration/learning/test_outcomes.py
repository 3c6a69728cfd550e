"""Outcomes joined to predictions: by id, by subject and moment, early, late, twice, otherwise, before their receipt."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.learning.joining import KEY, Desk
from tests.unit.catalog.examples import DEV, NOON

from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.core.ids import canonical, keyed_hash
from antiphon.learning.outcomes.submission import OutcomeSubmission
from antiphon.serving.answering.context import subject_of

HOUR = timedelta(hours=1)
EWR = {"origin": "EWR", "dest": "SFO"}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def label(value: str = "delayed", **fields: Any) -> OutcomeSubmission:
    given: dict[str, Any] = {"application": "desk", "prediction": "p1", "available_at": NOON + HOUR}
    return OutcomeSubmission(value=value, **(given | fields))


def of_moment(value: str = "delayed", at: datetime = NOON, **fields: Any) -> OutcomeSubmission:
    return label(value, prediction=None, entity=EWR, at=at, **fields)


def test_the_subject_is_named_as_serving_names_it() -> None:
    entity = {"origin": "EWR", "dest": "SFO"}
    served = keyed_hash(KEY, f"{DEV}|{canonical(dict(sorted(entity.items()))).decode()}").hex()
    assert subject_of(KEY, DEV, entity) == served


def test_a_label_is_joined_to_its_prediction(desk: Desk) -> None:
    desk.predict("p1", role="canary")
    taken = desk.joiner.take(DEV, "me", label(id="f1"))
    (joined,) = taken.outcomes
    assert desk.outcomes.get(DEV, joined.id) == joined
    assert (joined.status, joined.value, joined.probabilities, joined.role) == (
        "joined",
        "delayed",
        {"delayed": 0.25},
        "canary",
    )
    assert (joined.as_of, joined.available_at, joined.created_at) == (NOON, NOON + HOUR, desk.clock.now())
    assert (joined.entity, joined.principal, joined.reference) == (EWR, "me", "f1")


def test_the_first_label_stands(desk: Desk) -> None:
    desk.predict("p1")
    statuses = [
        desk.joiner.take(DEV, "me", label(value, id=identity)).status
        for identity, value in (("a", "delayed"), ("b", "delayed"), ("c", "on_time"), ("d", "delayed"))
    ]
    assert statuses == ["joined", "duplicate", "contradictory", "duplicate"]
    assert desk.outcomes.values(DEV, ["p1"], "outlook") == {"p1": "delayed"}
    assert desk.outcomes.counts(DEV) == {"label": {"contradictory": 1, "duplicate": 2, "joined": 1}}


def test_the_window_ends_where_it_is_declared_to(desk: Desk) -> None:
    desk.predict("p1")
    late = desk.joiner.take(DEV, "me", label(available_at=NOON + 24 * HOUR + timedelta(microseconds=1)))
    assert late.status == "late"
    assert desk.outcomes.values(DEV, ["p1"], "outlook") == {}
    assert desk.joiner.take(DEV, "me", label(available_at=NOON + 24 * HOUR)).status == "joined"


def test_the_same_outcome_sent_twice_is_one(desk: Desk) -> None:
    desk.predict("p1")
    first, again = desk.joiner.take_many(DEV, "me", [label(), label()])
    assert first == again
    assert desk.joiner.take(DEV, "me", label()) == first
    named = desk.joiner.take(DEV, "me", label(id="a"))
    assert desk.joiner.take(DEV, "me", label(id="a", available_at=None)) == named
    with pytest.raises(ConflictError, match="'a' was used for another outcome"):
        desk.joiner.take(DEV, "me", label("on_time", id="a"))
    assert sum(desk.outcomes.counts(DEV)["label"].values()) == 2
    # Another application may use the same id.
    desk.predict("p2", application="mute")
    other = label("good", application="mute", prediction="p2", kind="text", id="a")
    assert desk.joiner.take(DEV, "me", other).status == "joined"


def test_every_prediction_of_the_subject_and_moment_gets_it(desk: Desk) -> None:
    desk.predict("p1")
    desk.predict("p2", as_of=NOON + timedelta(seconds=1))
    desk.predict("elsewhere", dest="LAX")
    desk.predict("later", as_of=NOON + timedelta(seconds=1.1))
    desk.predict("unseen", role="shadow")
    taken = desk.joiner.take(DEV, "me", of_moment(id="f1"))
    assert [(each.prediction, each.status) for each in taken.outcomes] == [("p1", "joined"), ("p2", "joined")]
    assert desk.joiner.take(DEV, "me", of_moment(id="f1")) == taken
    # A prediction that came since gets it when it is sent again.
    desk.predict("p3")
    assert len(desk.joiner.take(DEV, "me", of_moment(id="f1")).outcomes) == 3
    assert desk.outcomes.values(DEV, ["p1", "p2", "p3", "later", "unseen"], "outlook") == dict.fromkeys(
        ("p1", "p2", "p3"), "delayed"
    )


@pytest.mark.parametrize("sent", [label(id="f1"), of_moment(id="f1"), of_moment()])
def test_an_outcome_before_its_receipt_is_joined_later(desk: Desk, sent: OutcomeSubmission) -> None:
    assert desk.joiner.take(DEV, "me", sent).status == "unknown"
    assert desk.joiner.take(DEV, "me", sent).status == "unknown"
    assert desk.joiner.rejoin(DEV) == 0
    desk.predict("p1")
    desk.predict("p2")
    desk.clock.advance(HOUR)
    assert desk.joiner.rejoin(DEV, since=desk.clock.now()) == 0
    assert desk.joiner.rejoin(DEV) == 1
    found = desk.outcomes.list(DEV)
    predictions = {"p1"} if sent.prediction else {"p1", "p2"}
    assert {each.prediction for each in found} == predictions
    assert {each.status for each in found} == {"joined"}
    assert {each.created_at for each in found} == {desk.clock.now()}
    assert desk.joiner.rejoin(DEV) == 0
    assert {each.id for each in desk.joiner.take(DEV, "me", sent).outcomes} == {each.id for each in found}
    assert len(desk.outcomes.list(DEV)) == len(predictions)


def test_sending_an_unknown_one_again_joins_it_too(desk: Desk) -> None:
    desk.joiner.take(DEV, "me", of_moment(id="f1"))
    desk.predict("p1")
    assert desk.joiner.take(DEV, "me", of_moment(id="f1")).status == "joined"
    assert desk.outcomes.counts(DEV) == {"label": {"joined": 1}}


def test_many_unknown_ones_are_looked_at_page_by_page(desk: Desk) -> None:
    desk.joiner.take_many(DEV, "me", [label(prediction=f"p{number}", id=f"f{number}") for number in range(450)])
    found = desk.outcomes.unknown(DEV)
    desk.predict(str(found[-1].named))
    desk.predict(str(found[9].named), application="mute")
    assert desk.joiner.rejoin(DEV, most=449) == 0
    desk.clock.advance(timedelta(days=1, seconds=1))
    assert desk.joiner.rejoin(DEV) == 0
    assert desk.joiner.rejoin(DEV, since=NOON) == 1
    assert desk.outcomes.counts(DEV) == {"label": {"joined": 1, "unknown": 449}}


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (label("maybe"), "'maybe' is no label of 'desk'. Send one of on_time, delayed"),
        (label("sideways", kind="thumbs"), "'sideways' is no thumbs"),
        (label("", kind="text"), "0 characters"),
        (label(available_at=NOON - timedelta(microseconds=1)), "An outcome before its prediction"),
        (of_moment(available_at=NOON - HOUR), "An outcome before its prediction"),
        (of_moment(at=NOON + 5 * HOUR), "An outcome before its prediction"),
        (label(available_at=NOON + timedelta(days=10, seconds=61)), "An outcome from the future"),
        (label(prediction="gone", available_at=NOON + timedelta(days=11)), "An outcome from the future"),
        (label(available_at=datetime(2013, 4, 10, 12)), "has no time zone"),  # noqa: DTZ001
        (label(entity=EWR), "names a prediction and also"),
        (label(prediction=""), "names an empty prediction"),
        (label(prediction=None), "neither which prediction"),
        (label(prediction=None, entity={"origin": "EWR"}, at=NOON), "Send exactly these: origin, dest"),
        (label(prediction="other"), "is one of mute, not of desk"),
        (label(prediction="unseen"), "no user saw it"),
        (label(application="mute", prediction="other"), "declares no outcome"),
    ],
)
def test_what_cannot_be_true_is_refused_and_nothing_kept(desk: Desk, sent: OutcomeSubmission, told: str) -> None:
    desk.predict("p1")
    desk.predict("other", application="mute")
    desk.predict("unseen", role="shadow")
    with pytest.raises(InvalidInputError) as refused:
        desk.joiner.take(DEV, "me", sent)
    assert told in str(refused.value)
    assert refused.value.next_step or "no time zone" in told
    assert desk.outcomes.list(DEV) == []


def test_a_replay_ahead_of_the_wall_clock_is_no_future(desk: Desk) -> None:
    ahead = desk.clock.now() + timedelta(days=30)
    desk.predict("p1", as_of=ahead)
    assert desk.joiner.take(DEV, "me", label(available_at=ahead + HOUR)).status == "joined"
    # Without a time it was known now, but never before its own question.
    desk.predict("p2", as_of=ahead)
    (taken,) = desk.joiner.take(DEV, "me", label(prediction="p2", available_at=None)).outcomes
    assert taken.available_at == ahead


def test_one_that_is_refused_does_not_stop_the_others(desk: Desk) -> None:
    desk.predict("p1")
    taken = desk.joiner.take_many(
        DEV, "me", [label("maybe"), label(application="gone"), label(id="a"), label("on_time", id="a"), label(id="b")]
    )
    assert [each.status for each in taken] == [None, None, "joined", None, "duplicate"]
    assert [type(each.error) for each in taken] == [
        InvalidInputError,
        NotFoundError,
        type(None),
        ConflictError,
        type(None),
    ]


def test_a_dry_run_says_the_same_and_keeps_nothing(desk: Desk) -> None:
    desk.predict("p1")
    sent = [label(id="a"), label(id="b"), label("on_time", id="c"), label(prediction="gone")]
    tried = desk.joiner.take_many(DEV, "me", sent, dry_run=True)
    assert desk.outcomes.list(DEV) == []
    assert [each.status for each in tried] == ["joined", "duplicate", "contradictory", "unknown"]
    assert desk.joiner.take_many(DEV, "me", sent) == tried


def test_thumbs_corrections_and_remarks_are_kept_beside_the_label(desk: Desk) -> None:
    desk.predict("p1")
    sent = [("thumbs", "up"), ("thumbs", "down"), ("text", "thanks"), ("text", "but late"), ("correction", "Better.")]
    statuses = [
        desk.joiner.take(DEV, "me", label(value, kind=kind, id=f"{kind}-{value}")).status for kind, value in sent
    ]
    assert statuses == ["joined", "contradictory", "joined", "joined", "joined"]
    assert desk.outcomes.scored(DEV, "desk", "outlook") == []
    assert desk.joiner.take(DEV, "me", label()).status == "joined"


def test_signals_join_within_a_window_of_their_own_with_or_without_an_outcome(desk: Desk) -> None:
    desk.predict("p1")
    desk.predict("p2", application="mute")
    numbers = itertools.count()

    def sent(value: str, signal: str = "resolved", **fields: Any) -> Any:
        return desk.joiner.take(DEV, "me", label(value, outcome=signal, id=f"s{next(numbers)}", **fields))

    assert [sent(value).status for value in ("no", "no", "yes")] == ["joined", "duplicate", "contradictory"]
    assert sent("yes", available_at=NOON + 3 * HOUR).status == "late"
    assert sent("yes", "copied", available_at=NOON + 3 * HOUR).status == "joined"
    assert sent("unclear", application="mute", prediction="p2").status == "joined"
    (kept,) = [one for one in desk.outcomes.of_prediction(DEV, "p1") if one.status == "joined" and one.value == "no"]
    assert (kept.kind, kept.outcome, kept.release) == ("signal", "resolved", "rel_1")
    # They are no outcomes: nothing is trained on or scored by them.
    assert desk.outcomes.scored(DEV, "desk", "outlook") == []
    with pytest.raises(InvalidInputError, match="'perhaps' is no resolved of 'desk'"):
        sent("perhaps")
    with pytest.raises(InvalidInputError, match="declares no outcome named 'escalated'"):
        sent("yes", "escalated")
    with pytest.raises(InvalidInputError, match="declares no outcome"):
        sent("yes", "escalated", application="mute", prediction="p2")


def test_a_signal_that_came_before_its_receipt_is_joined_with_it(desk: Desk) -> None:
    early = desk.joiner.take(DEV, "me", label("no", outcome="resolved", prediction="p1", id="a"))
    assert early.status == "unknown"
    desk.predict("p1")
    assert desk.joiner.rejoin(DEV, since=NOON) == 1
    assert [(one.kind, one.outcome, one.status) for one in desk.outcomes.of_prediction(DEV, "p1")] == [
        ("signal", "resolved", "joined")
    ]


def test_signals_are_counted_by_release(desk: Desk) -> None:
    for number in range(4):
        desk.predict(f"p{number}")
        for kind, value in (("thumbs", "down" if number else "up"), ("resolved", "yes" if number == 3 else "no")):
            named = {"kind": kind} if kind == "thumbs" else {"outcome": kind}
            desk.joiner.take(DEV, "me", label(value, prediction=f"p{number}", **named))
    found = desk.monitor.signals(DEV, "desk")
    assert [(one.signal, one.predictions, one.sent, one.values, one.good, one.bad) for one in found] == [
        ("thumbs", 4, 4, {"down": 3, "up": 1}, 0.25, 0.75),
        ("resolved", 4, 4, {"no": 3, "yes": 1}, 0.25, 0.75),
    ]
    assert desk.monitor.signals(DEV, "mute") == ()
    desk.joiner.take(DEV, "me", label("yes", prediction="p1", outcome="copied"))
    copied = next(one for one in desk.monitor.signals(DEV, "desk") if one.signal == "copied")
    assert (copied.good, copied.bad) == (1.0, None), "nobody sends that an answer was not copied"


def test_erased_entity_keys_leave_the_label(desk: Desk) -> None:
    from antiphon.catalog.serving.blobs import Blobs

    made = desk.predict("p1")
    Blobs(desk.database).erase(DEV, made.entity_blob)
    (joined,) = desk.joiner.take(DEV, "me", label()).outcomes
    assert (joined.status, joined.entity) == ("joined", {})


def test_of_senders_at_the_same_time_one_is_first(desk: Desk) -> None:
    for number in range(10):
        desk.predict(f"p{number}")
    threads, ready = 8, threading.Barrier(8)
    found: list[Counter[str | None]] = []

    def send(sender: int) -> None:
        joiner = desk.new_joiner()
        ready.wait(10)
        value = "delayed" if sender % 2 else "on_time"
        taken = [
            joiner.take(DEV, f"s{sender}", label(value, prediction=f"p{number}", id=f"{sender}/{number}"))
            for number in range(10)
        ]
        found.append(Counter(each.status for each in taken))

    running = [threading.Thread(target=send, args=(sender,)) for sender in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    total = sum(found, Counter())
    assert total == {"joined": 10, "duplicate": 30, "contradictory": 40}
    assert len(desk.outcomes.values(DEV, [f"p{number}" for number in range(10)], "outlook")) == 10
