"""Applying a changed view: features first, then definitions and releases, and what was live answers all the while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import event

from antiphon.catalog.features.publications import FeatureHolds
from antiphon.catalog.features.verdicts import StagedSnapshot
from antiphon.catalog.releases.releases import Release
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.durable.claims import ServedRuns
from antiphon.durable.run import Run
from antiphon.features.offline.refresh import WORKFLOW as REFRESH
from antiphon.services.apply.apply import ApplyReport, apply, plan
from antiphon.services.apply.workflow import ApplyArguments, ApplyWorkflow, open_applies
from antiphon.services.features.health import healer
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.refreshing import finish_apply, refresh_now
from antiphon.services.project.store import Store
from antiphon.services.rollouts import rollout_transitions

SETTINGS = '[project]\nname = "harbor"\n[engine]\nkind = "simulated"\nmodels = ["base"]\n'
DEFINITIONS = """
from antiphon import Application, Entity, Figure, Prompt, Quality, Source, count, expect, feature_view, last, col

calls = Source.table("calls", path="calls.csv", event_time="at", event_id="id")
berths = Source.table("berths", path="berths.csv", event_time="at", event_id="id")
port = Entity("port", keys=["port"])


@feature_view(entity=port, source=calls)
class Traffic:
    ships = count(window="24h")


@feature_view(entity=port, source=berths)
class Berths:
    free = last(col.free)


pilot = Application(
    "pilot", ungated="a test asks at once",
    model="base", purpose="guide", features=[Traffic], figures=[Figure("traffic.ships", step=5)],
    prompt=Prompt("{{ features.traffic.ships }} {{ question }}"),
)
"""
WINDOW = ('count(window="24h")', 'count(window="48h")')
WEEK = ('count(window="24h")', 'count(window="7d")')
BERTHS = ("free = last(col.free)", 'free = last(col.free)\n    seen = count(window="24h")')
STRICT = ("source=calls)", "source=calls, quality=Quality(expect.one_of('port', ['oslo'])))")
EMBARGO = ("source=calls)", 'source=calls, embargo="1s")')
PROMPT = ("{{ question }}", "ships. {{ question }}")


class Harbor:
    """A project with something live and published."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        now = datetime.now(UTC).isoformat()
        (folder / "antiphon.toml").write_text(SETTINGS)
        (folder / "calls.csv").write_text(f"id,port,at\n1,bergen,{now}\n")
        (folder / "berths.csv").write_text(f"id,port,at,free\n1,bergen,{now},3\n")
        self.store = Store.open(folder)
        self.platform = FeaturePlatform(self.store)

    def declare(self, *replacements: tuple[str, str]) -> None:
        text = DEFINITIONS
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        (self.folder / "definitions.py").write_text(text)

    def apply(self, *replacements: tuple[str, str], activate: bool | None = None) -> ApplyReport:
        self.declare(*replacements)
        return apply(self.store, principal="me", activate=activate)

    def finish(self, applied: ApplyReport) -> tuple[str, ...]:
        assert applied.run is not None
        return finish_apply(self.store, applied.run, platform=self.platform).activated

    def live(self) -> Release:
        release = self.store.releases.live(self.store.scope, "pilot")
        assert release is not None
        return release

    def applied(self, view: str = "traffic") -> str:
        current = self.store.applied.current(self.store.scope)
        assert current is not None
        return current.project.views[view].key

    def published(self) -> set[str]:
        current = self.store.publications.current(self.store.scope)
        return set() if current is None else set(current.snapshots)

    def status(self, applied: ApplyReport) -> str:
        assert applied.run is not None
        return self.store.runs.get(self.store.scope, applied.run).status


@pytest.fixture
def harbor(tmp_path: Path) -> Iterator[Harbor]:
    harbor = Harbor(tmp_path)
    first = harbor.apply()
    assert (first.run, first.activated) == (None, ("pilot",)), "nothing is answered yet that could be lost"
    refresh_now(harbor.store, harbor.platform, harbor.platform.refresh(harbor.store.scope))
    yield harbor
    harbor.platform.close()
    harbor.store.close()


def answers(harbor: Harbor) -> dict[str, object]:
    """Values that the live release reads now; raises when it cannot be read."""
    features = harbor.live().bundle.application.features
    found = harbor.platform.reader(harbor.store.scope).read(features, {"port": "bergen"}, datetime.now(UTC))
    assert {value.definition_version for value in found.values.values()} == set(features.values())
    return {name: value.value for name, value in found.values.items()}


def test_what_is_live_stays_so_until_the_new_version_is_published(harbor: Harbor) -> None:
    before, version = harbor.live(), harbor.applied()
    harbor.declare(WINDOW)
    [foreseen] = plan(harbor.store).materializes
    assert (foreseen.view, foreseen.rows) == ("traffic", 1)
    assert foreseen.seconds is not None
    applied = harbor.apply(WINDOW)
    assert (applied.activated, applied.plan.materializes) == ((), (foreseen,))
    assert (harbor.live(), harbor.applied()) == (before, version)
    assert plan(harbor.store).under_way == applied.run
    assert answers(harbor) == {"traffic.ships": 1}
    assert harbor.finish(applied) == ("pilot",)
    assert harbor.live().id == applied.releases[0].id
    assert answers(harbor) == {"traffic.ships": 1}
    assert {version, harbor.applied()} <= harbor.published()
    assert version != harbor.applied()
    assert plan(harbor.store).under_way is None


def test_a_change_that_needs_no_features_goes_live_at_once(harbor: Harbor) -> None:
    applied = harbor.apply(PROMPT)
    assert (applied.run, applied.activated) == (None, ("pilot",))


def test_a_view_that_is_only_looked_up_is_answered_until_its_new_version_is_published(harbor: Harbor) -> None:
    version = harbor.applied("berths")
    applied = harbor.apply(BERTHS)
    assert harbor.applied("berths") == version
    assert harbor.finish(applied) == ()
    assert harbor.applied("berths") in harbor.published() - {version}


@pytest.mark.parametrize("wrong", ["source", "gate"])
def test_what_cannot_be_materialized_leaves_everything_as_it_was_and_can_be_applied_again(
    harbor: Harbor, wrong: str
) -> None:
    before, version = harbor.live(), harbor.applied()
    calls = (harbor.folder / "calls.csv").read_text()
    changes = (WINDOW, STRICT) if wrong == "gate" else (WINDOW,)
    if wrong == "source":
        (harbor.folder / "calls.csv").unlink()
    with pytest.raises(InvalidInputError, match="Nothing was applied: what was live goes on answering") as caught:
        harbor.finish(harbor.apply(*changes))
    assert "antiphon apply" in str(caught.value)
    assert (harbor.live(), harbor.applied()) == (before, version)
    assert answers(harbor) == {"traffic.ships": 1}
    (harbor.folder / "calls.csv").write_text(calls)
    assert harbor.finish(harbor.apply(WINDOW)) == ("pilot",)


def test_a_held_view_is_said_and_nothing_changes(harbor: Harbor) -> None:
    before = harbor.live()
    with harbor.store.database.transaction() as connection:
        FeatureHolds(harbor.store.database).put(
            harbor.store.scope, "traffic", reason="looked at", principal="me", within=connection
        )
    with pytest.raises(InvalidInputError, match="'traffic' is held"):
        harbor.finish(harbor.apply(WINDOW))
    assert harbor.live() == before


def test_the_latest_apply_counts(harbor: Harbor) -> None:
    first = harbor.apply(WINDOW)
    assert harbor.apply(WINDOW).run == first.run, "the same again waits for the same"
    second = harbor.apply(WEEK)
    assert (harbor.status(first), harbor.status(second)) == ("cancelled", "queued")
    assert harbor.finish(second) == ("pilot",)
    assert harbor.live().id == second.releases[0].id
    third = harbor.apply(WINDOW)
    back = harbor.apply(WEEK)
    assert (back.run, harbor.status(third)) == (None, "cancelled"), "what is in force again takes its place as well"
    with pytest.raises(InvalidInputError, match="cancelled, by hand or by another apply"):
        harbor.finish(third)


def test_a_cancelled_apply_changes_nothing_even_in_its_last_step(harbor: Harbor) -> None:
    applied = harbor.apply(WINDOW)
    before, store = harbor.live(), harbor.store
    assert applied.run is not None
    run = store.runs.claim("somebody", ServedRuns("dev"), timedelta(minutes=1))
    assert run is not None
    assert run.id == applied.run
    store.runs.cancel(store.scope, run.id)
    wanted = msgspec.convert(run.arguments, ApplyArguments)
    workflow = ApplyWorkflow(store, harbor.platform.refresher)
    with pytest.raises(AntiphonError, match="The apply was cancelled"), store.database.transaction() as connection:
        workflow._put_in_force(run.id, wanted, connection)
    assert harbor.live() == before


def test_a_release_that_somebody_made_live_meanwhile_is_not_taken_away(harbor: Harbor) -> None:
    first = harbor.live()
    other = harbor.apply(PROMPT, activate=False).releases[0]
    harbor.apply()
    applied = harbor.apply(WINDOW)
    transitions = rollout_transitions(harbor.store)
    transitions.activate(harbor.store.scope, "pilot", other.id, principal="me", reason="mine")
    assert applied.run is not None
    done = finish_apply(harbor.store, applied.run, platform=harbor.platform)
    assert (done.activated, harbor.live().id) == ((), other.id)
    assert f"stays a draft, because release {other.number} went live meanwhile" in done.notes[0]
    assert first.id != other.id


def test_a_release_whose_features_were_never_published_does_not_take_the_place_of_one_that_answers(
    harbor: Harbor,
) -> None:
    never = harbor.apply(WINDOW, activate=False).releases[0]
    harbor.apply()  # takes its place
    before = harbor.live()
    transitions = rollout_transitions(harbor.store)
    with pytest.raises(InvalidInputError, match="reads features that are not published: traffic@"):
        transitions.activate(harbor.store.scope, "pilot", never.id, principal="me", reason="now")
    assert harbor.live() == before


def test_an_embargo_is_waited_for(harbor: Harbor) -> None:
    applied = harbor.apply(WINDOW, EMBARGO)
    assert harbor.finish(applied) == ("pilot",)
    assert answers(harbor) == {"traffic.ships": 1}
    assert any(
        "apply" in one.reason or "embargo" in one.reason for one in harbor.store.publications.list(harbor.store.scope)
    )


class Refused(AssertionError):
    """The limit of a test on looks."""


def bounded(looks: int) -> Callable[[Run], None]:
    left = iter(range(looks))

    def tell(run: Run) -> None:
        if next(left, None) is None:
            raise Refused(f"{run.id} is waited for without end.")

    return tell


def test_an_embargo_that_will_not_end_is_not_waited_for(harbor: Harbor) -> None:
    applied = harbor.apply(WINDOW, ("source=calls)", 'source=calls, embargo="1h")'))
    assert applied.run is not None
    store, looked = harbor.store, bounded(600)

    def withdrawn(run: Run) -> None:
        looked(run)
        for one in store.staged.list(store.scope):
            store.staged.remove(store.scope, one.snapshot)

    with pytest.raises(InvalidInputError, match="withdrawn"):
        finish_apply(store, applied.run, withdrawn, harbor.platform)
    applied = harbor.apply(WEEK, ("source=calls)", 'source=calls, embargo="1h")'))
    assert applied.run is not None

    def held(run: Run) -> None:
        looked(run)
        if store.staged.list(store.scope):
            FeatureHolds(store.database).put(store.scope, "traffic", reason="wait", principal="me")

    with pytest.raises(InvalidInputError, match="held"):
        finish_apply(store, applied.run, held, harbor.platform)


def test_a_view_that_cannot_be_published_after_its_embargo_holds_no_other_back(harbor: Harbor) -> None:
    store = harbor.store
    key = harbor.applied("berths")
    view, _, version = key.partition("@")
    store.staged.add(
        StagedSnapshot(store.scope, view, version, "snap_gone", datetime.now(UTC) - timedelta(hours=1), "r", "me")
    )
    applied = harbor.apply(WINDOW, EMBARGO)
    assert harbor.finish(applied) == ("pilot",)
    assert harbor.platform.refresher.release_staged() == 0
    assert [one.snapshot for one in store.staged.list(store.scope)] == ["snap_gone"]


def test_a_worker_in_this_process_that_dies_is_told(harbor: Harbor) -> None:
    class Dying:
        @property
        def refresher(self) -> object:
            raise ZeroDivisionError

    applied = harbor.apply(WINDOW)
    assert applied.run is not None
    with pytest.raises(ZeroDivisionError):
        finish_apply(harbor.store, applied.run, bounded(100), Dying())  # type: ignore[arg-type]


def test_a_damaged_snapshot_is_rebuilt_in_its_own_version_or_withdrawn_when_nothing_reads_it(harbor: Harbor) -> None:
    store, old = harbor.store, harbor.applied()
    harbor.finish(harbor.apply(WINDOW))
    new = harbor.applied()
    assert {old, new} <= harbor.published()
    for path in [*store.paths.online.glob("*/*/traffic/*"), *store.paths.lake.rglob("*.parquet")]:
        path.unlink()
    healer(store, harbor.platform).heal()
    assert old not in harbor.published(), "no release in use pins it, so that no refresh would ever make it again"
    [run] = store.runs.list(store.scope, workflow=REFRESH, status="queued")
    assert run.arguments["views"] == [new]
    refresh_now(store, harbor.platform, run.id)
    assert healer(store, harbor.platform).heal() is None
    assert answers(harbor) == {"traffic.ships": 1}


def test_open_applies_are_found_without_going_through_those_that_ended(harbor: Harbor) -> None:
    store = harbor.store
    asked = list[str]()
    event.listen(
        store.database.backend.engine,
        "before_cursor_execute",
        lambda *told: asked.append(told[2]) if "runs" in told[2] else None,
    )
    first = harbor.apply(WINDOW).run
    asked.clear()
    assert [run.id for run in open_applies(store)] == [first]
    [statement] = asked
    with store.database.read() as connection:
        plan = connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {statement}", ("queued", "running", *["x"] * (statement.count("?") - 2))
        ).all()
    assert [row[3] for row in plan] == ["SEARCH runs USING INDEX ix_runs_claimable (status=? AND workflow=?)"]


def test_the_old_version_stays_refreshed_while_a_release_pins_it(harbor: Harbor) -> None:
    version = harbor.applied()
    applied = harbor.apply(WINDOW)
    assert version in harbor.platform.views()
    harbor.finish(applied)
    assert version not in harbor.platform.views(), "nothing pins it any more"
