"""Injected faults against the gates, small: each is stopped for the right reason, and gets through without the
gates."""

from __future__ import annotations

import ast
from pathlib import Path

from benchmarks.features import fault_injectors
from benchmarks.features.fault_injectors import FAULTS
from benchmarks.features.faults import run_faults, run_healthy

ROWS = 900


async def test_every_fault_is_stopped_by_name_and_gets_through_without_gates(tmp_path: Path) -> None:
    results = await run_faults(tmp_path, ROWS)
    assert len(results) == len(FAULTS) >= 15
    assert [(result.fault, result.outcome, result.reason) for result in results if not result.held] == []
    assert {result.fault for result in results if result.outcome == "quarantined"} == {
        "keys with separators and unicode"
    }
    through = {result.fault for result in results if result.without == "through"}
    assert through == {fault.name for fault in FAULTS if fault.readable}, "a defence that is not needed proves nothing"


async def test_days_as_they_ought_to_be_raise_no_alarm(tmp_path: Path) -> None:
    assert await run_healthy(tmp_path, ROWS, 6) == []


def test_the_injectors_know_nothing_of_the_gates() -> None:
    tree = ast.parse(Path(fault_injectors.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert not imported & {"antiphon", "benchmarks"}
