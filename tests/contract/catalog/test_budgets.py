"""Budgets and the shares of them that processes hold, on both catalogs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.budgets import Budget, Budgets, BudgetShares
from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock

ALL = Budget("all", "tenant", "", "month", "UTC", "EUR", 1_000, 80, 90, "refuse", "ann", "a test", NOON)
LEASE = timedelta(seconds=10)


def draw(database: Database, holder: str, amount: int, *, seconds: int = 10) -> None:
    until = database.clock.now() + timedelta(seconds=seconds)
    with database.transaction() as connection:
        BudgetShares(database).draw(DEV, "all", holder, amount, until, within=connection)


def test_a_budget_is_set_changed_and_removed_with_its_shares(database: Database) -> None:
    budgets = Budgets(database)
    with database.transaction() as connection:
        budgets.put(DEV, ALL, within=connection)
        budgets.put(DEV, Budget("desk", "application", "desk", *_terms(5)), within=connection)
        budgets.put(DEV, Budget("desk", "application", "desk", *_terms(7)), within=connection)
    draw(database, "a", 5)
    assert [(one.name, one.limit_micros) for one in budgets.list(DEV)] == [("all", 1_000), ("desk", 7)]
    assert budgets.find(DEV, "all") == ALL
    assert budgets.list(OTHER) == []
    assert ALL.batch_micros == 900
    with database.transaction() as connection:
        assert not budgets.remove(OTHER, "all", within=connection)
        assert budgets.remove(DEV, "all", within=connection)
        assert not budgets.remove(DEV, "all", within=connection)
    assert BudgetShares(database).held(DEV, "all") == 0


def test_a_share_is_lessened_with_the_commit_of_what_is_charged(database: Database) -> None:
    shares = BudgetShares(database)
    draw(database, "a", 100)
    draw(database, "a", 20)
    draw(database, "b", 7)
    with database.transaction() as connection:
        shares.charge([(30, DEV, "all", "a"), (2, DEV, "all", "b"), (9, DEV, "all", "gone")], within=connection)
    assert shares.held(DEV, "all") == 95

    def fail() -> None:
        with database.transaction() as connection:
            shares.charge([(30, DEV, "all", "a")], within=connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert shares.held(DEV, "all") == 95
    assert shares.held(OTHER, "all") == 0


def test_a_share_that_is_not_renewed_ends_by_itself(database: Database, clock: ManualClock) -> None:
    shares = BudgetShares(database)
    draw(database, "dead", 100)
    draw(database, "living", 10)
    clock.advance(timedelta(seconds=8))
    with database.transaction() as connection:
        assert shares.renew(DEV, "all", "living", clock.now() + LEASE, within=connection)
    clock.advance(timedelta(seconds=8))
    assert shares.held(DEV, "all") == 10
    with database.transaction() as connection:
        assert not shares.renew(DEV, "all", "dead", clock.now() + LEASE, within=connection)
    draw(database, "living", 1)
    with database.transaction() as connection:
        shares.return_share(DEV, "all", "living", 4, within=connection)
    assert shares.held(DEV, "all") == 7
    with database.transaction() as connection:
        shares.return_share(DEV, "all", "living", None, within=connection)
    assert shares.held(DEV, "all") == 0


@pytest.mark.parametrize(
    ("kind", "subject", "concerned"),
    [("tenant", "", True), ("application", "desk", True), ("application", "other", False), ("key", "ann", True),
     ("key", "desk", False)],
)  # fmt: skip
def test_a_budget_concerns_what_it_is_of(kind: str, subject: str, concerned: bool) -> None:
    budget = Budget("x", kind, subject, *_terms(1))  # type: ignore[arg-type]
    assert budget.concerns("desk", "ann") is concerned


def _terms(limit: int) -> tuple[object, ...]:
    return "day", "UTC", "EUR", limit, 80, 100, "refuse", "ann", "a test", NOON
