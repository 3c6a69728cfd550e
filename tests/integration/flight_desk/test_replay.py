"""The whole example against a small stand-in: real data, real HTTP shapes, real analysis."""

from __future__ import annotations

from pathlib import Path

import httpx2
import msgspec
import pytest
from examples.flight_desk import data, demand, drive, report, settings, truth
from examples.flight_desk.desk_client import Desk, Platform
from examples.flight_desk.findings import Findings, find
from examples.flight_desk.records import Journal
from examples.flight_desk.settings import Settings
from examples.flight_desk.truth import Truth
from tests.integration.flight_desk.stand_in import StandIn


@pytest.fixture(scope="session")
def declared() -> Settings:
    full = settings.load()
    return msgspec.structs.replace(
        full,
        demand=msgspec.structs.replace(full.demand, flights_per_day=5, asks_per_flight=8),
        demo=msgspec.structs.replace(full.demo, days=2),
        analysis=msgspec.structs.replace(full.analysis, bootstrap_rounds=50, train_rows=800),
    )


@pytest.fixture(scope="session")
def events(declared: Settings, tmp_path_factory: pytest.TempPathFactory) -> data.Events:
    return data.prepare(tmp_path_factory.mktemp("events"), declared.sources, declared.zone)


@pytest.fixture(scope="session")
def facts(events: data.Events) -> Truth:
    return truth.read(events)


async def replay(stand_in: StandIn, declared: Settings, events: data.Events, journal: Journal) -> None:
    transport = httpx2.ASGITransport(app=stand_in.app())
    async with Desk(Platform("http://stand-in", "ak_test"), transport) as desk:
        await drive.Replay(declared, declared.demo, events, desk, journal, lambda *progress: None).run()


def found(journal: Journal, declared: Settings, events: data.Events, facts: Truth) -> Findings:
    return find(journal.answers(), journal.lags(), events, facts, declared, declared.demo)


async def test_every_question_is_answered_in_every_way_and_the_hybrid_is_worth_it(
    declared: Settings, events: data.Events, facts: Truth, tmp_path: Path
) -> None:
    stand_in, journal = StandIn(facts), Journal(tmp_path)
    await replay(stand_in, declared, events, journal)
    asked = demand.questions(declared, declared.demo, demand.read_flights(events, declared.days(declared.demo)))
    answers = journal.answers()
    assert drive.is_complete(declared, declared.demo, events, answers)
    assert not drive.is_complete(declared, declared.demo, events, answers[:-1])
    for way in declared.ways:
        online = [answer for answer in answers if answer.way == way and answer.path == "online"]
        assert sorted(answer.question for answer in online) == sorted(question.id for question in asked)
    flights = demand.chosen_flights(asked)
    assert sum(answer.path == "batch" for answer in answers) == 3 * len(flights)

    findings = found(journal, declared, events, facts)
    briefing, online, age, fingerprint = (findings.way(way) for way in ("briefing", "online", "age", "fingerprint"))
    # The stand-in never errs: what is false online is the weather's lag alone.
    assert online.written.value == online.stale.value == 0
    assert online.lag.value > 0
    assert fingerprint.written.value == fingerprint.stale.value == 0
    assert briefing.stale.value > age.stale.value > 0
    assert online.tokens_per_answer.value == 50
    assert briefing.tokens_per_answer.value < fingerprint.tokens_per_answer.value < online.tokens_per_answer.value
    assert briefing.share_from_batch == 1
    assert findings.same_as_derived == 1
    assert findings.generations == stand_in.generated
    assert findings.sweep[0].false == pytest.approx(online.false.value)


async def test_only_events_known_by_then_are_sent_and_all_of_them(
    declared: Settings, events: data.Events, facts: Truth, tmp_path: Path
) -> None:
    stand_in, journal = StandIn(facts), Journal(tmp_path)
    await replay(stand_in, declared, events, journal)
    last = max(lag.until for lag in journal.lags())
    expected = data.arriving(events, declared.start(declared.demo), last)
    assert {stream: len(sent) for stream, sent in stand_in.events.items()} == {
        stream: len(sent) for stream, sent in expected.items()
    }
    assert stand_in.latest is not None
    assert stand_in.latest <= last
    dawns = [declared.local(day, declared.dawn) for day in declared.days(declared.demo)]
    assert stand_in.refreshed == [declared.start(declared.demo), *dawns]


async def test_an_interrupted_run_goes_on_without_asking_twice(
    declared: Settings, events: data.Events, facts: Truth, tmp_path: Path
) -> None:
    journal = Journal(tmp_path)
    await replay(StandIn(facts), declared, events, journal)
    whole = (tmp_path / "answers.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "answers.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:40])
    again = Journal(tmp_path)
    await replay(StandIn(facts), declared, events, again)
    keys = [answer.key for answer in again.answers()]
    assert sorted(keys) == sorted(answer.key for answer in Journal(tmp_path).answers())
    assert len((tmp_path / "answers.jsonl").read_bytes().splitlines()) == len(lines) == len(set(keys))


async def test_lies_of_the_model_are_counted_as_false_when_written(
    declared: Settings, events: data.Events, facts: Truth, tmp_path: Path
) -> None:
    journal = Journal(tmp_path)
    await replay(StandIn(facts, lie_every=4), declared, events, journal)
    findings = found(journal, declared, events, facts)
    assert 100 < findings.way("online").written.value < 500
    assert findings.way("online").stale.value == 0


async def test_a_busy_platform_is_asked_again(
    declared: Settings, events: data.Events, facts: Truth, tmp_path: Path
) -> None:
    journal = Journal(tmp_path)
    await replay(StandIn(facts, busy_first=3), declared, events, journal)
    assert not [answer for answer in journal.answers() if answer.error]


async def test_the_page_and_the_summary_say_what_was_found(
    declared: Settings, events: data.Events, facts: Truth, tmp_path: Path
) -> None:
    journal = Journal(tmp_path)
    await replay(StandIn(facts, lie_every=5), declared, events, journal)
    findings = found(journal, declared, events, facts)
    page = tmp_path / "report.html"
    report.write(findings, declared, page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 5
    assert "nan" not in text.lower().replace("dominant", "")
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    summary = msgspec.json.decode(msgspec.json.encode(report.summary(findings, page, 1.0)))
    assert set(summary["ways"]) == {"briefing", "online", "age", "fingerprint"}
    assert summary["equal_cost"]["fewer"]["value"] == pytest.approx(
        summary["equal_cost"]["age_false"] - summary["equal_cost"]["fingerprint_false"]
    )
    assert len(report.table(findings).splitlines()) == 6
    # The same journal gives the same findings, and so the same page.
    report.write(found(journal, declared, events, facts), declared, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
