"""Schedules and windows of a project: their values, and every mistake with its line."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from antiphon import Window, cron, drift, every, outcomes
from antiphon.core.errors import InvalidDefinitionsError, InvalidInputError
from antiphon.definitions.cron import CronTime
from antiphon.definitions.project import ProjectSpec, load
from antiphon.definitions.schedules import EvaluateWork, PrecomputeWork, RetrainWork, ScheduleSpec, time_of_day
from antiphon.definitions.triggers import ForgettingLimit
from antiphon.definitions.windows import WindowSpec

SOUND = """
from antiphon import (
    Application, Entity, Evaluate, FineTune, Outcome, Precompute, Prompt, Retrain, Source, Window, count, cron, drift,
    every, feature_view, forgetting, outcomes, published,
)

customer = Entity("customer", keys=["customer"])
opened = Source.table("opened", path="tickets.csv", event_time="at")
customers = Source.table("customers", path="lists/customers.csv", event_time="at")


@feature_view(entity=customer, source=opened, refresh="1h")
class Tickets:
    week = count(window="7d")


urgency = {"type": "object", "properties": {"urgency": {"type": "string", "enum": ["low", "urgent"]}}}
desk = Application(
    "desk", features=[Tickets], prompt=Prompt("{{ question }}"), model=FineTune(base="tiny"), purpose="answer",
    output=urgency, outcome=Outcome("urgency"),
)
plain = Application("plain", features=[Tickets], prompt=Prompt("{{ question }}"), model="tiny", purpose="answer")

retrain = Retrain(desk, when=outcomes(500) | every("24h"), full_when=every("30d"))
night = Precompute(desk, entities=customers, ready_by="06:00 Europe/Berlin")
again = Precompute("plain", entities="all.csv", when=published(Tickets), name="plain-again", max_failed_rows=50)
measure = Evaluate(desk, when=drift("urgency"), rows=100)
hours = Window("hours", "0 8 * * MON-FRI", lasts="10h", zone="Europe/Berlin", work=("training",))
idle = Window("idle", cron("0 22 * * *"), lasts="8h", kind="preferred")
"""


def project(folder: Path, text: str) -> Path:
    (folder / "definitions.py").write_text(textwrap.dedent(text))
    return folder


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def test_a_sound_project_becomes_values(tmp_path: Path) -> None:
    found = load(project(tmp_path, SOUND))
    assert found.schedules == {
        "retrain-desk": ScheduleSpec(
            "retrain-desk", "desk", RetrainWork(full_when=every("30d")),
            when=outcomes(500) | every("24h"), settle=600.0, catch_up=604_800.0,
        ),
        "precompute-desk": ScheduleSpec(
            "precompute-desk", "desk", PrecomputeWork(str(tmp_path / "lists/customers.csv")),
            ready_by=CronTime("0 6 * * *", "Europe/Berlin"), lead=3600.0, settle=60.0, catch_up=21_600.0,
        ),
        "plain-again": ScheduleSpec(
            "plain-again", "plain", PrecomputeWork(str(tmp_path / "all.csv"), 50),
            when=found.schedules["plain-again"].when, lead=3600.0, settle=60.0, catch_up=21_600.0,
        ),
        "evaluate-desk": ScheduleSpec(
            "evaluate-desk", "desk", EvaluateWork(rows=100), when=drift("urgency"), settle=600.0, catch_up=86_400.0
        ),
    }  # fmt: skip
    assert {name: spec.work_class for name, spec in found.schedules.items()} == {
        "retrain-desk": "training",
        "precompute-desk": "batch",
        "plain-again": "batch",
        "evaluate-desk": "evaluation",
    }
    assert found.windows == {
        "hours": WindowSpec("hours", CronTime("0 8 * * MON-FRI", "Europe/Berlin"), 36_000.0, work=("training",)),
        "idle": WindowSpec("idle", CronTime("0 22 * * *"), 28_800.0, "preferred"),
    }


def test_work_says_what_it_is_worth_and_how_long_a_burst_is_waited_for(tmp_path: Path) -> None:
    declared = SOUND.replace('full_when=every("30d")', 'full_when=forgetting(0.02), value=3, debounce="30s"')
    spec = load(project(tmp_path, declared)).schedules["retrain-desk"]
    assert (spec.value, spec.debounce, spec.work) == (3.0, 30.0, RetrainWork(full_when=ForgettingLimit(0.02)))


def test_forgetting_is_a_condition_where_another_schedule_measures_it(tmp_path: Path) -> None:
    declared = SOUND.replace('when=drift("urgency")', "when=forgetting(0.02)")
    declared += '\nwhole = Retrain(desk, when=forgetting(0.05), delta=False, name="whole")\n'
    assert load(project(tmp_path, declared)).schedules["whole"].when == ForgettingLimit(0.05)


def test_schedules_survive_json_and_a_project_from_before_them_is_read(tmp_path: Path) -> None:
    found = load(project(tmp_path, SOUND))
    assert msgspec.json.decode(msgspec.json.encode(found), type=ProjectSpec) == found
    kept = msgspec.json.decode(msgspec.json.encode(found), type=dict)
    del kept["schedules"], kept["windows"]
    older = msgspec.convert(kept, ProjectSpec)
    assert (older.schedules, older.windows, older.views) == ({}, {}, found.views)


def test_a_schedule_changes_no_application(tmp_path: Path) -> None:
    without = SOUND.partition("retrain = ")[0]
    assert load(project(tmp_path, SOUND)).applications == load(project(tmp_path, without)).applications


WINDOW = 'Window("hours", "0 8 * * MON-FRI", lasts="10h", zone="Europe/Berlin", work=("training",))'


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("Retrain(desk,", "Retrain(None,", "schedule 'retrain-': None is no Application"),
        ("Retrain(desk,", "Retrain('desks',", "declares no application 'desks'; there are desk, plain."),
        ("Retrain(desk,", "Retrain(plain,", "'plain' is not fine-tuned; declare model=FineTune"),
        ("Retrain(desk,", "Retrain(plain,", "'plain' has no outcome to learn from"),
        ("when=published(Tickets)", "when=outcomes(5) | every('1h')", "when: 'plain' has no outcome that could arrive"),
        ("when=published(Tickets)", "when=published('week')", "publishes no view 'week'; there are tickets."),
        ('every("24h")', 'every("10s")', "schedule 'retrain-desk': when: every 10s is too often"),
        ("when=outcomes(500) | every", "when='daily' or every", "when must be a condition"),
        ('full_when=every("30d")', "full_when=outcomes(0)", "full_when: outcomes(0) is no number"),
        ('full_when=every("30d")', 'full_when=every("30d"), delta=False', "full_when: without delta every training is"),
        ('full_when=every("30d")', "full_when=forgetting(0)", "full_when: forgetting(0) is no bound; write a number"),
        ('full_when=every("30d")', "full_when=forgetting(1.5)", "forgetting(1.5) never comes: Brier score is within 1"),
        ('when=outcomes(500) | every("24h")', "when=forgetting(0.02)", "when: another training from what is new would"),
        ('when=outcomes(500) | every("24h"), full_when=every("30d")', "when=forgetting(0.02), delta=False",
         "when: no schedule trains 'desk' from what is new, which measures"),
        ("when=published(Tickets)", "when=forgetting(0.02)", "when: 'plain' has no outcome, so what it forgets is not"),
        ('full_when=every("30d")', "value=0", "value is a number from 0.01 to 100, where 1 is that"),
        ('full_when=every("30d")', "value='high'", "value is a number from 0.01 to 100"),
        ('full_when=every("30d")', "debounce='a while'", "debounce: 'a while' is not a duration"),
        ("when=outcomes(500) | every", "debounce='30s', when=every", "debounce: times do not come in bursts"),
        ('ready_by="06:00 Europe/Berlin"', "ready_by='06:00', debounce='30s'", "debounce: times do not come in bursts"),
        ('full_when=every("30d")', "delta='no'", "delta is True or False, not 'no'"),
        ('full_when=every("30d")', "examples=0", "examples is a whole number from 1, not 0"),
        ('full_when=every("30d")', "rows=None", "rows is a whole number from 1, not None"),
        ('full_when=every("30d")', "rows=50", "rows: the gates of 'desk' ask for 100, so with 50 no version is ever"),
        ('full_when=every("30d")', "texts=0", "texts is a whole number from 1, not 0"),
        ('full_when=every("30d")', "settle='soon'", "settle: 'soon' is not a duration"),
        ('full_when=every("30d")', "catch_up=7", "catch_up: 7 is not a duration"),
        ('full_when=every("30d")', "name='Weekly'", "schedule 'Weekly': a name is lower-case letters"),
        ('full_when=every("30d")', "name=''", "a name is lower-case letters"),
        ('full_when=every("30d")', "name='evaluate-desk'", "'evaluate-desk' is declared already, at definitions"),
        ('"plain", entities="all.csv", when=published(Tickets), name="plain-again"',
         'desk, entities="all.csv", when=drift()',
         "schedule 'precompute-desk' is declared already, at definitions.py:25. Give one of them another name."),
        (', ready_by="06:00 Europe/Berlin"', "", "give when or ready_by, and not both"),
        ('ready_by="06:00 Europe/Berlin"', 'ready_by="06:00", when=drift()', "give when or ready_by, and not both"),
        ("06:00 Europe/Berlin", "6 o'clock", "is no time of day; write hours, minutes and a zone"),
        ("06:00 Europe/Berlin", "24:00", "ready_by: '24:00' is no time of day"),
        ("06:00 Europe/Berlin", "06:00 Berlin", "ready_by: 'Berlin' is no zone"),
        ('ready_by="06:00 Europe/Berlin"', "ready_by=6", "ready_by: 6 is no time of day"),
        ('ready_by="06:00 Europe/Berlin"', "ready_by=cron('0 0 31 4 *')", "ready_by: '0 0 31 4 *' never fires"),
        ("06:00 Europe/Berlin\"", "06:00\", lead='25h'", "the lead of 25h is longer than the time from one deadline"),
        # One day of that year has 25 hours.
        ("06:00 Europe/Berlin\"", "06:00 America/Santiago\", lead='25h'", "the lead of 25h is longer than the time"),
        ("06:00 Europe/Berlin\"", "06:00\", lead=''", "lead: '' is not a duration"),
        ("06:00 Europe/Berlin\"", "06:00\", max_failed_rows=-1", "max_failed_rows is a whole number from 0, not -1"),
        ("entities=customers", "entities=''", "entities: '' is neither the path of a table nor"),
        ("entities=customers", "entities='lists/*.csv'", "is a pattern; name one file"),
        (
            "entities=customers",
            "entities=Source.table('d', url='postgresql://a@b/c', table='t', event_time='at')",
            "the source 'd' is no table of files",
        ),
        (
            "entities=customers",
            "entities=Source.table('d', path='a.csv', event_time='at', where=False)",
            "a job reads every row, and 'd' has a condition",
        ),
        ('lasts="10h"', 'lasts="long"', "window 'hours': lasts: 'long' is not a duration"),
        ('lasts="10h"', 'lasts="10s"', "it lasts 10s; write a minute or more"),
        ('"0 8 * * MON-FRI", lasts="10h"', '"0 8 * * *", lasts="24h"', "window 'hours': it never ends: it lasts 24h"),
        ('"0 8 * * MON-FRI", lasts="10h"', '"* * * * *", lasts="1m"', "it never ends"),
        ('cron("0 22 * * *"), lasts="8h"', 'cron("0 0 * * *"), lasts="24h"', "window 'idle': it never ends"),
        ('"0 8 * * MON-FRI"', '"8:00"', "write five fields"),
        ('"0 8 * * MON-FRI"', "800", "begins must be a cron line"),
        ('"0 8 * * MON-FRI"', "cron('0 8 * * *', zone='Asia/Tokyo')", "begins has the zone 'Asia/Tokyo' of its own"),
        ('zone="Europe/Berlin", work', 'zone="Berlin", work', "'Berlin' is no zone"),
        ('work=("training",)', 'work=("trainings",)', "'trainings' is no class of work; there are refresh, backfill"),
        ('work=("training",)', "work=()", "work names no class of work"),
        ('kind="preferred"', 'kind="quiet"', "window 'idle': kind 'quiet' is none; write 'blackout' or 'preferred'"),
        ('Window("hours"', 'Window("Hours"', "a name is lower-case letters"),
        ('Window("hours"', 'Window("idle"', "window 'idle' is declared already, at definitions.py"),
        (WINDOW, 'Window("hours", "30 6 * * *", lasts="1410m", zone="Europe/Berlin")',
         "ready_by: blackouts of batch work (hours) leave less than the lead of 1h before each deadline"),
        (WINDOW, 'Window("a", "30 5 * * *", lasts="1h", zone="Europe/Berlin"); Window("b", "0 6 * * *", '
         'lasts="23h", zone="Europe/Berlin", work="batch")', "(a, b) leave less than the lead of 1h before each"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(tmp_path: Path, before: str, after: str, told: str) -> None:
    assert before in SOUND
    with pytest.raises(InvalidDefinitionsError) as raised:
        load(project(tmp_path, SOUND.replace(before, after, 1)))
    assert any(told in problem for problem in raised.value.problems), raised.value.problems
    assert all(problem.startswith("definitions.py:") for problem in raised.value.problems)


def test_mistakes_come_all_at_once_with_those_of_the_application(tmp_path: Path) -> None:
    text = (
        SOUND.replace("outcomes(500)", "outcomes(0)").replace('lasts="10h"', 'lasts="x"').replace('"answer"', '""', 1)
    )
    with pytest.raises(InvalidDefinitionsError) as raised:
        load(project(tmp_path, text))
    lines = [int(problem.split(":")[1]) for problem in raised.value.problems]
    assert len(lines) == 3
    assert lines == sorted(lines)
    assert text.splitlines()[lines[1] - 1].startswith("retrain = ")
    assert text.splitlines()[lines[2] - 1].startswith("hours = ")


@pytest.mark.parametrize(
    "window",
    [
        'Window("hours", "30 6 * * MON-FRI", lasts="1410m", zone="Europe/Berlin")',
        'Window("hours", "0 6 * * *", lasts="23h", zone="Europe/Berlin")',
        'Window("hours", "30 6 * * *", lasts="1410m", zone="Europe/Berlin", work=("training", "evaluation"))',
        'Window("hours", "30 6 * * *", lasts="1410m", zone="Europe/Berlin", kind="preferred")',
        'Window("weekend", "0 0 * * SAT,SUN", lasts="24h")',
        'Window("holidays", "0 0 20 12 *", lasts="40d")',
    ],
)
def test_windows_that_leave_time_are_sound(tmp_path: Path, window: str) -> None:
    assert len(load(project(tmp_path, SOUND.replace(WINDOW, window))).windows) == 2


@pytest.mark.parametrize(
    ("moment", "begin", "end"),
    [
        ("2026-05-04T12:00Z", "2026-05-04T06:00Z", "2026-05-04T16:00Z"),
        ("2026-05-04T06:00Z", "2026-05-04T06:00Z", "2026-05-04T16:00Z"),
        ("2026-05-04T15:59:59Z", "2026-05-04T06:00Z", "2026-05-04T16:00Z"),
        ("2026-05-04T16:00Z", "2026-05-05T06:00Z", "2026-05-05T16:00Z"),
        ("2026-05-08T20:00Z", "2026-05-11T06:00Z", "2026-05-11T16:00Z"),
    ],
)
def test_a_window_has_the_occurrence_that_holds_or_the_next(moment: str, begin: str, end: str) -> None:
    spec = WindowSpec("hours", CronTime("0 8 * * MON-FRI", "Europe/Berlin"), 36_000.0)
    assert spec.occurrence(at(moment)) == (at(begin), at(end))


@pytest.mark.parametrize(
    ("line", "hours", "moment", "begin", "end"),
    [
        # Two days that follow each other are one weekend, seen from either.
        ("0 0 * * SAT,SUN", 24, "2026-05-09T12:00Z", "2026-05-09T00:00Z", "2026-05-11T00:00Z"),
        ("0 0 * * SAT,SUN", 24, "2026-05-10T12:00Z", "2026-05-09T00:00Z", "2026-05-11T00:00Z"),
        ("0 0 * * SAT,SUN", 24, "2026-05-11T00:00Z", "2026-05-16T00:00Z", "2026-05-18T00:00Z"),
        # Two that overlap end with the later one.
        ("0 22,23 * * *", 2, "2026-05-09T23:30Z", "2026-05-09T22:00Z", "2026-05-10T01:00Z"),
        ("0 22,23 * * *", 2, "2026-05-10T01:00Z", "2026-05-10T22:00Z", "2026-05-11T01:00Z"),
        ("* 9-16 * * MON", 1, "2026-05-11T09:30Z", "2026-05-11T09:00Z", "2026-05-11T17:59Z"),
    ],
)
def test_occurrences_without_a_gap_are_one(line: str, hours: int, moment: str, begin: str, end: str) -> None:
    assert WindowSpec("w", CronTime(line), hours * 3600.0).occurrence(at(moment)) == (at(begin), at(end))


def test_a_window_lasts_as_long_through_a_change_of_the_clock() -> None:
    spec = WindowSpec("night", CronTime("0 1 * * *", "Europe/Berlin"), 4 * 3600.0)
    for moment in ("2026-03-29T00:30Z", "2026-10-24T23:30Z"):
        found = spec.occurrence(at(moment))
        assert found is not None
        assert found[1] - found[0] == timedelta(hours=4)
        assert found[0] <= at(moment) < found[1]


def test_an_endless_window_is_answered_and_an_unreadable_one_is_not() -> None:
    found = WindowSpec("ever", CronTime("0 0 * * *"), 86_400.0).occurrence(at("2026-05-09T12:00Z"))
    assert found is not None
    assert found[0] < at("2026-05-09T00:00Z") < at("2026-05-11T00:00Z") < found[1]
    with pytest.raises(InvalidInputError, match="never fires"):
        WindowSpec("never", CronTime("0 0 30 2 *"), 3600.0).occurrence(at("2026-05-09T12:00Z"))


def test_a_declared_window_is_a_value() -> None:
    window = Window("night", cron("0 1 * * *", zone="Asia/Tokyo"), lasts="90m", work=("batch",))
    assert window.spec == WindowSpec("night", CronTime("0 1 * * *", "Asia/Tokyo"), 5400.0, "blackout", ("batch",))


@pytest.mark.parametrize(
    ("text", "line", "zone"),
    [
        ("06:00", "0 6 * * *", "UTC"),
        (" 6:05 Europe/Berlin ", "5 6 * * *", "Europe/Berlin"),
        ("23:59 America/New_York", "59 23 * * *", "America/New_York"),
    ],
)
def test_a_time_of_day_is_a_cron_time(text: str, line: str, zone: str) -> None:
    assert time_of_day(text) == CronTime(line, zone)


@pytest.mark.parametrize("text", ["", "6", "24:00", "06:60", "06:00:00", "06:00 in Berlin", "06:00Europe/Berlin"])
def test_another_text_is_no_time_of_day(text: str) -> None:
    assert time_of_day(text) is None
