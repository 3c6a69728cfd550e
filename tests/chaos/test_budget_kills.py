"""Crowds on the last cent overshoot nothing; what killed processes had reserved ends by itself, counter = ledger."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.harness.budget_project import TOKEN_MICROS, WORDS, WORST, BudgetProject

from antiphon.services.budgets.account import LEASE_SECONDS
from antiphon.services.budgets.gate import BudgetReservation


@contextmanager
def child(folder: Path, requests: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is ready to answer."""
    command = [sys.executable, "-m", "tests.chaos.budget_child", str(folder), str(requests), *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as started:
        assert line_of(started) == "ready\n"
        yield started


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.chaos
async def test_a_crowd_in_two_processes_overshoots_nothing_and_none_is_refused_falsely(tmp_path: Path) -> None:
    project = BudgetProject(tmp_path)
    budget = project.declare(WORST + 40 * WORDS * TOKEN_MICROS)
    with child(tmp_path, 100) as first, child(tmp_path, 100) as second:
        begin(first)
        begin(second)
        ends = [json.loads(line_of(first)), json.loads(line_of(second))]
    assert (first.returncode, second.returncode) == (0, 0)
    answered = sum(one.get("answered", 0) for one in ends)
    assert project.spent(budget) == project.ledger() == project.charged() == answered * WORDS * TOKEN_MICROS
    assert project.spent(budget) <= budget.limit_micros
    assert project.spent(budget) + WORST > budget.limit_micros, "a request was refused that fitted"
    assert project.held(budget) == 0
    await project.close()


@pytest.mark.chaos
@pytest.mark.parametrize("reserves", [True, False], ids=["as it is", "the switch"])
async def test_a_crowd_overshoots_where_nothing_is_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserves: bool
) -> None:
    async def nothing(reservation: BudgetReservation, request: object, gpus: object) -> None:
        return None

    if not reserves:
        monkeypatch.setattr(BudgetReservation, "reserve", nothing)
    project = BudgetProject(tmp_path)
    budget = project.declare(WORST + 4 * WORDS * TOKEN_MICROS)
    # Every worst case is far above what an answer costs: more than fit must be asked for.
    crowd = budget.limit_micros // (WORDS * TOKEN_MICROS) + 10
    await project.crowd(crowd)
    assert (project.spent(budget) <= budget.limit_micros) == reserves
    await project.close()


@pytest.mark.chaos
async def test_what_killed_processes_reserved_ends_by_itself(tmp_path: Path) -> None:
    seed = random.Random(4)
    project = BudgetProject(tmp_path)
    budget = project.declare(100_000_000)
    for _ in range(3):
        with child(tmp_path, 30, "--forever") as killed:
            begin(killed)
            assert json.loads(line_of(killed))["answered"] == 30
            time.sleep(seed.random() * 0.05)
            killed.send_signal(signal.SIGKILL)
    assert project.held(budget) > 0, "nothing was reserved when they were killed"
    assert project.spent(budget) == project.ledger() == project.charged()
    deadline = time.monotonic() + LEASE_SECONDS + 5
    while project.held(budget) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    assert project.held(budget) == 0
    budget = project.declare(project.spent(budget) + WORST)
    assert (await project.crowd(1))["answered"] == 1
    assert project.spent(budget) == project.ledger() == project.charged()
    await project.close()
