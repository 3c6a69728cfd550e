"""Budgets of a project: worst cases are reserved, answers are charged with their receipts, and nothing is overshot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.integration.services.test_costs import priced
from tests.integration.serving.test_wired import PLAIN, Project

from antiphon.catalog.budgets import Budget, BudgetShares
from antiphon.catalog.ledger import MeteredUsage
from antiphon.core.errors import BudgetExhaustedError
from antiphon.governance.identity.principal import Principal
from antiphon.operations.budgets.amounts import amount_of
from antiphon.operations.budgets.spending import BudgetCharges
from antiphon.operations.cost.price_book import hour_of
from antiphon.services.budgets.account import BudgetAccount
from antiphon.services.budgets.gate import BudgetReservation
from antiphon.services.budgets.project_budgets import BUDGET, BudgetTerms, ProjectBudgets
from antiphon.services.cost.costs import ProjectCosts
from antiphon.services.cost.prices import ProjectPrices


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    opened = Project(tmp_path)
    priced(opened.store, engine_second=0.0, completion_token=0.001, currency="EUR")
    ProjectPrices(opened.store).follow_settings()
    opened.release(PLAIN, live=True)
    yield opened
    await opened.close()


def declare(project: Project, limit: int, **fields: object) -> Budget:
    terms = {
        "name": "all", "kind": "tenant", "subject": "", "period": "month", "zone": "UTC", "currency": "EUR",
        "limit_micros": limit, "warn_percent": 80, "batch_percent": 100, "at_limit": "refuse", "principal": "ann",
        "reason": "a test", "changed_at": project.store.database.clock.now(),
    }  # fmt: skip
    budget = msgspec.convert({**terms, **fields}, Budget)
    with project.store.database.transaction() as connection:
        project.store.budgets.put(project.store.scope, budget, within=connection)
    return budget


def spent(project: Project, budget: Budget) -> int:
    return BudgetCharges(project.store.database, project.store.scope, budget).micros()


def held(project: Project, budget: Budget) -> int:
    return BudgetShares(project.store.database).held(project.store.scope, budget.name)


async def test_an_answer_is_charged_with_its_receipt_and_its_rest_released(project: Project) -> None:
    budget = declare(project, 10_000_000)
    answer = await project.answerer.answer(project.request())
    assert spent(project, budget) == answer.usage.completion_tokens * 1_000
    total = sum(one.micros for one in ProjectCosts(project.store, project.store.scope).charges())
    assert spent(project, budget) == total
    account = project.store.budget_gate.account(project.store.scope, budget)
    assert account._reserved == 0
    account.close()
    assert held(project, budget) == 0


@pytest.mark.parametrize("gpus", [0, 4])
async def test_the_gpus_of_the_engine_that_answers_are_reserved(project: Project, gpus: int) -> None:
    store = project.store
    priced(store, engine_second=0.0, gpu_second=1.0)
    ProjectPrices(store).follow_settings()
    store.budget_gate.gpus = 9  # The gateway's own settings say another number, as of another host's engine.
    project.engine.gpus = gpus
    declare(project, 100_000_000)
    needed: list[int] = []
    taking = BudgetReservation._taken_of

    async def taken(self: BudgetReservation, budget: Budget, need: int) -> BudgetAccount:
        needed.append(need)
        return await taking(self, budget, need)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BudgetReservation, "_taken_of", taken)
        await project.answerer.answer(project.request())
    (need,) = needed
    prices = project.store.budget_gate.prices(store.scope).book
    words, tokens, gate = PLAIN.decoding.max_tokens, store.budget_gate.token_seconds, store.budget_gate
    least = amount_of((("gpu", round(words * tokens * 1e6) * gpus),), "", prices, hour_of(gate.now()))
    completion = words * 1_000 + 1
    assert need >= least + completion if gpus else need == completion


async def test_concurrent_requests_on_the_last_cent_overshoot_nothing(project: Project) -> None:
    worst = PLAIN.decoding.max_tokens * 1_000 + 1
    budget = declare(project, worst * 3)

    async def one(number: int) -> str:
        try:
            await project.answerer.answer(project.request(originating_user=f"user-{number}"))
        except BudgetExhaustedError as error:
            return error.code
        return "answered"

    found = await asyncio.gather(*(one(number) for number in range(40)))
    assert found.count("answered") >= 3
    assert spent(project, budget) <= budget.limit_micros
    if "insufficient_quota" in found:
        assert spent(project, budget) + worst > budget.limit_micros


async def test_a_budget_of_zero_lets_nothing_in(project: Project) -> None:
    declare(project, 0)
    with pytest.raises(BudgetExhaustedError, match="zero"):
        await project.answerer.answer(project.request())


async def test_a_price_of_the_past_corrects_what_is_spent(project: Project) -> None:
    budget = declare(project, 10_000_000)
    with project.store.database.transaction():
        project.store.ledger.add_with_commit(project.store.scope, [MeteredUsage("completion_token", 7)])
    known = BudgetCharges(project.store.database, project.store.scope, budget)
    assert known.micros() == 7_000
    admin, hour = Principal("ann", "default", "admin"), hour_of(project.store.database.clock.now())
    ProjectPrices(project.store).record("completion_token", "0.003", model="", since=hour, reason="a mistake", by=admin)
    total = sum(one.micros for one in ProjectCosts(project.store, project.store.scope).charges())
    assert known.micros() == total == 21_000


async def test_what_is_reached_is_warned_of_once_and_resolved_when_raised(project: Project) -> None:
    store, admin = project.store, Principal("ann", "default", "admin")
    budgets = ProjectBudgets(store, store.scope)
    budgets.set("all", BudgetTerms(limit="0.01", batch=90), reason="a test", by=admin)
    with store.database.transaction():
        store.ledger.add_with_commit(store.scope, [MeteredUsage("completion_token", 9)])
    assert [one.status for one in budgets.list()] == ["batch waits"]
    assert (budgets.warn(), budgets.warn()) == (2, 0)
    with pytest.raises(BudgetExhaustedError, match="batch work"):
        await project.answerer.answer(project.request(path="batch"))
    budgets.set("all", BudgetTerms(limit="5"), reason="more", by=admin)
    assert budgets.warn() == 2
    assert not store.notifications.active(store.scope, BUDGET)
    budgets.remove("all", reason="over", by=admin)
    assert budgets.list() == ()
