"""A project whose stream follows a folder: read by a refresh without a worker, and told by commands and pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.harness.chaos_project import write_project
from tests.harness.refresh import run_refresh
from typer.testing import CliRunner

from antiphon.catalog.features.followed_streams import FollowedStreams, PositionMove
from antiphon.cli.main import assemble
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.gateway.measurements import GatewayMetrics
from antiphon.services.apply.apply import apply
from antiphon.services.features.followed_places import followed_places
from antiphon.services.features.following import order_first_refreshes
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.streams import ProjectStreams
from antiphon.services.features.view_status import read_view_statuses
from antiphon.services.project.store import Store

NOW = datetime.now(UTC) - timedelta(minutes=5)

DEFINITIONS = """
from antiphon import Entity, FileDrop, Source, col, count, feature_view
from antiphon import sum as total

shop = Entity("shop", keys=["shop"])
visits = Source.stream(
    "visits", event_time="at", event_id="id", follow=FileDrop("inbox/*.jsonl", settle="200ms", within="10s")
)


@feature_view(entity=shop, source=Source.table("shops", path="shops.csv", event_time="at"))
class Counted:
    shops = count(window=None)


@feature_view(entity=shop, source=visits)
class Visited:
    visits = count(window="2h")
    spent = total(col.spent, window="2h", scale="0.01")
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = write_project(tmp_path / "project", "simulated").root
    (found / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    (found / "inbox").mkdir()
    (found / "shops.csv").write_text(f"shop,at\ntea,{NOW.isoformat()}\n")
    return found


def drop(root: Path, *numbers: int) -> None:
    rows = [{"id": n, "at": NOW.isoformat(), "shop": "tea", "spent": n / 4} for n in numbers]
    (root / "inbox" / f"{numbers[0]}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def told(root: Path, *command: str) -> str:
    found = CliRunner().invoke(assemble(), [*command, "--project", str(root)])
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.fixture
def opened(root: Path) -> Iterator[tuple[Store, FeaturePlatform]]:
    with closing(Store.open(root)) as store:
        apply(store, principal="test")
        with closing(FeaturePlatform(store)) as platform:
            yield store, platform


async def test_a_view_is_late_when_the_place_that_it_follows_is_not_read_in_time(
    root: Path, opened: tuple[Store, FeaturePlatform], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, platform = opened
    drop(root, 1)
    await run_refresh(store, platform)

    def states() -> dict[str, str]:
        return {view.view: view.state for view in read_view_statuses(store, platform, store.scope)}

    # Nothing consumes here, and no contract limits how far that may be behind.
    assert states() == {"counted": "fresh", "visited": "fresh"}
    monkeypatch.setattr("antiphon.services.features.following.within_seconds", lambda _: -5.0)
    assert states() == {"counted": "fresh", "visited": "late"}


async def test_a_refresh_reads_what_is_written_by_then_without_a_worker(
    root: Path, opened: tuple[Store, FeaturePlatform]
) -> None:
    drop(root, 1, 2, 3)
    await run_refresh(*opened)
    assert visits_of(*opened) == 3
    drop(root, 4)
    await run_refresh(*opened)
    assert visits_of(*opened) == 3, "it was read to its end within the declared time"
    FollowedStreams(opened[0].database).begin(opened[0].scope, "visits", "elsewhere")
    await run_refresh(*opened)
    assert visits_of(*opened) == 4


async def test_a_place_that_was_never_read_blocks_its_view_alone_and_one_that_was_is_used_as_it_is(
    root: Path, opened: tuple[Store, FeaturePlatform], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, platform = opened
    (root / "inbox").rename(root / "away")
    await run_refresh(store, platform)
    verdict = store.verdicts.latest(store.scope, "visited", views_of(platform, "visited")[0].definition_version)
    assert verdict is not None
    assert [finding.reason for finding in verdict.findings] == [f"source visits: There is no folder {root}/inbox."]
    assert store.publications.snapshots(store.scope).keys() == {view.key for view in views_of(platform, "counted")}
    (root / "away").rename(root / "inbox")
    drop(root, 1)
    await run_refresh(store, platform)
    monkeypatch.setattr("antiphon.features.following.followed_places.within_seconds", lambda _: 0.0)
    (root / "inbox").rename(root / "away")
    await run_refresh(store, platform)
    assert visits_of(store, platform) == 1


def views_of(platform: FeaturePlatform, name: str) -> list[FeatureViewSpec]:
    return [view for view in platform.views().values() if view.name == name]


def visits_of(store: Store, platform: FeaturePlatform) -> object:
    (view,) = views_of(platform, "visited")
    now = store.database.clock.now()
    found = platform.published(store.scope).read({view.name: view.definition_version}, {"shop": "tea"}, now)
    return found.values["visited.visits"].value


async def test_a_view_is_refreshed_once_when_the_first_rows_of_an_empty_place_come(
    root: Path, opened: tuple[Store, FeaturePlatform]
) -> None:
    store, platform = opened
    await run_refresh(store, platform)
    assert order_first_refreshes(store, platform) is None, "nothing has come"
    drop(root, 1)
    FollowedStreams(store.database).begin(store.scope, "visits", "elsewhere")
    spec = platform.followed()["visits"]
    followed_places(store, store.events.append).catch_up(spec)
    assert order_first_refreshes(store, platform) == "visited"
    (queued,) = store.runs.list(store.scope, 10, status="queued")
    assert [view.partition("@")[0] for view in queued.arguments["views"]] == ["visited"]
    assert order_first_refreshes(store, platform) is None


def test_files_that_are_followed_are_files_that_a_view_reads(root: Path, opened: tuple[Store, FeaturePlatform]) -> None:
    """Orders do not write over those."""
    _, platform = opened
    assert str(root / "inbox" / "*.jsonl") in platform.source_files()["view/visited"]


def test_doctor_reads_a_row_of_each_place(root: Path) -> None:
    def checked() -> dict[str, Any]:
        found = CliRunner().invoke(assemble(), ["doctor", "--project", str(root), "--json"])
        return next(line for line in json.loads(found.stdout) if line["check"] == "followed")

    assert checked()["found"] == f"visits is read from files {root}/inbox/*.jsonl"
    (root / "inbox").rmdir()
    assert f"There is no folder {root}/inbox" in checked()["problem"]


def test_how_far_a_place_is_read_and_why_not_is_told(root: Path, opened: tuple[Store, FeaturePlatform]) -> None:
    store, platform = opened
    streams, positions = ProjectStreams(store, platform), FollowedStreams(store.database)
    (status,) = streams.status(store.scope)
    assert status.follower is not None
    place = f"files {root}/inbox/*.jsonl"
    assert (status.follower.place, status.follower.late, status.follower.caught_up_at) == (place, True, None)
    assert "has not been read from its beginning yet" in told(root, "features", "streams")
    assert {view.view: view.state for view in read_view_statuses(store, platform, store.scope)}["visited"] == "never"
    state = positions.begin(store.scope, "visits", place)
    positions.advance(store.scope, state, PositionMove("{}", 2, 1, 5, "id is empty", store.database.clock.now()))
    (status,) = streams.status(store.scope)
    assert status.follower is not None
    assert (status.follower.late, status.follower.refused, status.follower.waiting) == (False, 2, 5)
    positions.failed(store.scope, "visits", "source visits: There is no folder inbox.")
    found = told(root, "status")
    assert ", 5 messages wait." in found
    assert "visits: fails since" in found
    assert "There is no folder inbox." in found
    assert "visits: 2 rows are no events; of the last one id is empty." in found
    assert "visits: 1 messages were removed before they were read." in found
    (told_as_json,) = json.loads(told(root, "features", "streams", "--json"))
    assert told_as_json["follower"]["problem"] == "source visits: There is no folder inbox."
    metrics = GatewayMetrics()
    metrics.watch(streams.status(store.scope))
    assert 'antiphon_follower_refused_rows_total{stream="visits"} 2.0' in metrics.exposition().decode()
