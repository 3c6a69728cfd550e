"""A changed view and the releases that pin the old one: what is said, what stays refreshed, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from antiphon.core.errors import ConflictError, InvalidDefinitionsError
from antiphon.services.apply.apply import ApplyReport, PlannedChange, apply, plan
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store

SETTINGS = '[project]\nname = "shops"\n[engine]\nkind = "simulated"\nmodels = ["base"]\n'

DEFINITIONS = """
from antiphon import Application, Entity, Figure, Prompt, Quality, Rollout, Source
from antiphon import col, count, expect, feature_view, last

orders = Source.table("orders", path="orders.csv", event_time="ordered", event_id="id")


@feature_view(entity=Entity("shop", keys=["shop"]), source=orders)
class Today:
    orders = count(window="24h")
    paid = last(col.paid)


desk = Application(
    "desk", ungated="a test asks at once",
    model="base", purpose="tell", features=[Today], figures=[Figure("today.orders", step=5)],
    prompt=Prompt("{{ features.today.orders }}"), rollout=Rollout(canary=[50]),
)
"""
ROWS = "id,shop,ordered,paid\n1,tea,2026-01-01T10:00:00Z,3.5\n"


class Project:
    def __init__(self, folder: Path, settings: str = "") -> None:
        self.folder = folder
        (folder / "antiphon.toml").write_text(SETTINGS + settings)
        (folder / "orders.csv").write_text(ROWS)
        (folder / "definitions.py").write_text(DEFINITIONS)
        self.store = Store.open(folder)

    def write(self, *replacements: tuple[str, str]) -> None:
        text = DEFINITIONS
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        (self.folder / "definitions.py").write_text(text)

    def apply(self, *replacements: tuple[str, str]) -> ApplyReport:
        self.write(*replacements)
        return apply(self.store, principal="me")

    def view(self, *replacements: tuple[str, str]) -> PlannedChange:
        self.write(*replacements)
        return plan(self.store).changes[0]

    def keys(self) -> set[str]:
        platform = FeaturePlatform(self.store)
        return set(platform.views())


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    project.apply()
    yield project
    project.store.close()


JUDGED = (
    "rollout=Rollout(canary=[50]),",
    'rollout=Rollout(canary=[50]), metrics=[JudgeMetric("kind", "Is it kind?")],',
)
IMPORTED = ("Figure, Prompt", "Figure, JudgeMetric, Prompt")


def test_a_rubric_that_is_reworded_needs_a_new_version(project: Project) -> None:
    project.apply(IMPORTED, JUDGED)
    reworded = (JUDGED[0], JUDGED[1].replace("Is it kind?", "Is it kind and short?"))
    with pytest.raises(InvalidDefinitionsError, match="'kind' is version 1 with other words in release 2: raise its"):
        project.view(IMPORTED, reworded)
    with pytest.raises(InvalidDefinitionsError, match="raise its version"):
        project.apply(IMPORTED, reworded)
    project.apply(IMPORTED, (JUDGED[0], reworded[1].replace('short?"', 'short?", version="2"')))


ADDED = (
    "    paid = last(col.paid)\n",
    '    paid = last(col.paid)\n    paid_orders = count(where=col.paid > 0, window="24h")\n',
)
REMOVED = ("    paid = last(col.paid)\n", "")
WINDOW = ('count(window="24h")', 'count(window="48h")')
RULE = ("source=orders)", 'source=orders, quality=Quality(expect.recent("1d")), embargo="1h", owner="ops")')
MOVED = ('path="orders.csv"', 'path="moved.csv"')


def test_a_plan_says_what_a_change_means_for_readers(project: Project) -> None:
    assert (project.view().level, project.view().sentences) == ("same", ())
    added = project.view(ADDED)
    assert (added.change, added.level, added.sentences) == ("changed", "compatible", ("adds paid_orders",))
    removed = project.view(REMOVED)
    assert (removed.change, removed.level, removed.sentences) == ("changed", "breaking", ("removes paid",))
    window = project.view(WINDOW)
    assert window.level == "breaking"
    assert window.sentences == ("orders means something else: window 24h is 48h",)
    rule = project.view(RULE)
    assert (rule.change, rule.level) == ("unchanged", "cosmetic")
    assert rule.sentences == ("owner changed", "quality changed", "embargo changed")
    both = project.view(ADDED, WINDOW)
    assert (both.level, len(both.sentences)) == ("breaking", 2)
    quarantined = project.view(
        ("source=orders)", 'source=orders, quality=Quality(expect.not_null("paid", action="quarantine")))')
    )
    assert (quarantined.change, quarantined.level) == ("changed", "breaking")


def test_a_pinned_version_stays_refreshed_and_the_release_is_named(project: Project) -> None:
    old = next(iter(project.keys()))
    project.write(REMOVED)
    foretold = plan(project.store).consequences
    applied = project.apply(REMOVED)
    assert list(applied.rollouts) == ["desk"]
    expected = (
        f"today: breaking: removes paid. release 1 of desk (live) pins {old.partition('@')[2]}, which stays refreshed "
        "until it is retired."
    )
    assert foretold == (expected,)
    assert expected in applied.notes
    assert project.keys() == {old, applied.plan.project and f"today@{_version(project)}"}
    (project.folder / "orders.csv").write_text("id,shop,ordered\n1,tea,2026-01-01T10:00:00Z\n")
    assert "cannot be refreshed any more: There is no column 'paid'" in project.apply(REMOVED).notes[-1]


def test_a_source_that_moves_from_under_a_live_release_is_refused(project: Project) -> None:
    before = project.store.applied.current(project.store.scope)
    with pytest.raises(ConflictError, match=r"release 1 of desk \(live\): There is no file"):
        project.apply(MOVED)
    (project.folder / "moved.csv").write_text("id,shop,ordered\n1,tea,2026-01-01T10:00:00Z\n")
    with pytest.raises(ConflictError, match="There is no column 'paid'"):
        project.apply(MOVED)
    assert project.store.applied.current(project.store.scope) == before, "nothing was applied"
    (project.folder / "moved.csv").write_text(ROWS)
    assert project.apply(MOVED).plan.changes[0].sentences == ("its source is read from another place",)


def _version(project: Project) -> str:
    applied = project.store.applied.current(project.store.scope)
    assert applied is not None
    return applied.project.views["today"].definition_version
