"""Asking for an evaluation: an engine that is away is waited for so long, a budget until it has room."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from antiphon.core.errors import BudgetExhaustedError, UnavailableError
from antiphon.learning.evaluation import asking
from antiphon.learning.evaluation.asking import answer_each, ask_patiently


class NothingKept:
    """Keeps no answer."""

    def find(self, key: str, kind: type[Any]) -> None:
        return None

    def keep(self, key: str, answer: Any) -> None:
        pass


class Spent:
    """Answers once it was asked so often; until then a budget has no room."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times, self.error, self.calls = times, error, 0

    async def __call__(self, request: Any) -> Any:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "answered"


@pytest.mark.parametrize("retry_after", [0.001, inf])
async def test_a_spent_budget_is_waited_for_and_the_wait_is_told(
    retry_after: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "BUDGET_SECONDS", 0.001)
    answer = Spent(5, BudgetExhaustedError("The budget desk has 0 USD left.", retry_after=retry_after))
    notes: list[tuple[int, int, str]] = []

    async def piece() -> Any:
        return await ask_patiently(None, answer, patience=0.0)  # type: ignore[arg-type]

    found = await answer_each(
        NothingKept(),  # type: ignore[arg-type]
        str,
        {"row": piece},
        1,
        lambda *told: notes.append(told),
        "answering rows",
    )
    assert found == ["answered"]
    assert notes[:5] == [(0, 1, "waits: The budget desk has 0 USD left.")] * 5
    assert notes[-1] == (1, 1, "answering rows")


async def test_an_engine_that_stays_away_ends_the_evaluation() -> None:
    with pytest.raises(UnavailableError):
        await ask_patiently(None, Spent(5, UnavailableError("gone")), patience=0.0)  # type: ignore[arg-type]
