"""Rows tell which of them are of one user, and never of whom."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from antiphon.learning.datasets.rows import _users


def test_rows_of_one_unit_of_exposure_are_named_by_the_first_of_them() -> None:
    def receipt(unit: str) -> Any:
        return SimpleNamespace(user="" if unit == "hash of the entity" else unit)

    receipts = {"e1": receipt("ada@example.com"), "e2": receipt("hash of the entity"), "e3": receipt("ben")}
    receipts |= {"e4": receipt("ada@example.com"), "e6": None}
    candidates: Any = [SimpleNamespace(example=f"e{number}") for number in range(1, 7)]  # e5 is of the history
    assert _users(candidates, receipts) == {"e1": "e1", "e3": "e3", "e4": "e1"}
