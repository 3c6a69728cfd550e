"""Reports of skew, a row a view, on every database."""

from __future__ import annotations

from datetime import timedelta

from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.features.skew_reports import SCHEDULE, Difference, FeatureSkew, SkewReport, SkewReports
from antiphon.core.clock import ManualClock


def report(*views: str, different: int = 1) -> SkewReport:
    example = Difference({"airport": "ZRH"}, NOON, 27.4, "25", NOON, None, "s1", prediction="pred_1")
    features = tuple(
        FeatureSkew(view, "delay_2h", "v1", "online", 10, 10 - different, different, (example,), {"late": 2})
        for view in views
    )
    return SkewReport(1, NOON, 10, 4, 0.5, True, 10 * len(views), different * len(views), features)


def test_a_report_is_read_back_whole_and_by_view_and_kept_once(database: Database) -> None:
    reports, found, told = SkewReports(database), report("congestion", "weather"), []
    assert reports.add(DEV, "skew_1", found, "me", also=told.append)
    assert not reports.add(DEV, "skew_1", report("congestion", different=9), "me", also=told.append)
    assert len(told) == 1
    assert reports.get(DEV, "skew_1") == found
    assert reports.get(DEV, "skew_1", "weather") == found.of_views(["weather"])
    assert reports.get(OTHER, "skew_1") is None
    (line,) = reports.list(DEV, "weather")
    assert (line.compared, line.different, line.not_comparable, line.share) == (10, 1, 2, 0.1)


def test_the_last_reports_and_those_of_a_schedule_are_found(database: Database, clock: ManualClock) -> None:
    reports = SkewReports(database)
    reports.add(DEV, "skew_1", report("congestion", "weather"), SCHEDULE)
    clock.advance(timedelta(hours=1))
    reports.add(DEV, "skew_2", report("congestion", different=0), "me")
    assert [line.report for line in reports.last(DEV)] == ["skew_2"]
    assert [line.report for line in reports.last(DEV, "weather")] == ["skew_1"]
    assert {view: line.report for view, line in reports.latest_by_view(DEV).items()} == {
        "congestion": "skew_2",
        "weather": "skew_1",
    }
    assert reports.scheduled_at(DEV) == NOON
    assert reports.scheduled_at(OTHER) is None
    assert [line.report for line in reports.list(DEV, since=NOON + timedelta(minutes=1))] == ["skew_2"]


def test_old_reports_go_and_the_last_of_a_view_stays(database: Database, clock: ManualClock) -> None:
    reports = SkewReports(database)
    for number in (1, 2):
        reports.add(DEV, f"skew_{number}", report("congestion", "weather"), "me")
        clock.advance(timedelta(hours=1))
    assert reports.expire(DEV, clock.now(), ["congestion"]) == 2
    assert [line.report for line in reports.list(DEV)] == ["skew_2", "skew_2"]
    assert reports.expire(DEV, clock.now(), []) == 2
    assert reports.list(DEV) == []
