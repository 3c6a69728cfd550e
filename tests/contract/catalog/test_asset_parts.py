"""Parts of assets: ordered with what they are made of, settled once, and reopened with their run."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.asset_parts import AssetParts, PartRecord
from antiphon.catalog.database import Database

FIRST = PartRecord("workflow/clean", "2026-11-01", "run_1", {"file/a.csv": "v1"}, "code-1", NOON)
LATER = NOON + timedelta(hours=1)


@pytest.fixture
def parts(database: Database) -> AssetParts:
    return AssetParts(database)


def order(parts: AssetParts, database: Database, record: PartRecord) -> None:
    with database.transaction() as connection:
        parts.order(DEV, record, within=connection)


def test_an_order_that_ended_well_makes_the_part(parts: AssetParts, database: Database) -> None:
    order(parts, database, FIRST)
    assert parts.list(DEV) == [FIRST]
    assert parts.list(OTHER) == []
    assert parts.settle(DEV, FIRST.settled("succeeded", "out-1", LATER))
    (made,) = parts.list(DEV)
    assert (made.version, made.made_by, made.made_inputs, made.made_definition, made.made_at) == (
        "out-1",
        "run_1",
        {"file/a.csv": "v1"},
        "code-1",
        LATER,
    )
    assert not parts.settle(DEV, FIRST.settled("failed", None, LATER))


def test_an_order_that_failed_leaves_the_part_that_there_is(parts: AssetParts, database: Database) -> None:
    order(parts, database, FIRST)
    parts.settle(DEV, FIRST.settled("succeeded", "out-1", NOON))
    again = PartRecord("workflow/clean", "2026-11-01", "run_2", {"file/a.csv": "v2"}, "code-1", LATER)
    order(parts, database, again)
    (open_order,) = parts.list(DEV)
    assert (open_order.run, open_order.outcome, open_order.version) == ("run_2", None, "out-1")
    parts.settle(DEV, open_order.settled("failed", None, LATER))
    (failed,) = parts.list(DEV)
    assert (failed.outcome, failed.ended_at, failed.version, failed.made_by) == ("failed", LATER, "out-1", "run_1")
    assert (failed.inputs, failed.made_inputs) == ({"file/a.csv": "v2"}, {"file/a.csv": "v1"})


def test_what_was_ordered_anew_is_not_settled_by_the_order_before(parts: AssetParts, database: Database) -> None:
    order(parts, database, FIRST)
    order(parts, database, PartRecord("workflow/clean", "2026-11-01", "run_2", {}, "code-1", LATER))
    assert not parts.settle(DEV, FIRST.settled("succeeded", "out-1", LATER))
    assert parts.list(DEV)[0].version is None


def test_a_run_that_goes_on_is_the_order_of_its_part_again(parts: AssetParts, database: Database) -> None:
    order(parts, database, FIRST)
    parts.settle(DEV, FIRST.settled("failed", None, NOON))
    with database.transaction() as connection:
        parts.reopen(DEV, "run_1", "run_9", within=connection)
    (found,) = parts.list(DEV, unsettled=True)
    assert (found.run, found.ended_at, found.inputs) == ("run_9", None, {"file/a.csv": "v1"})
