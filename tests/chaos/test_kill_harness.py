"""The platform and its ledger under SIGKILL, and a writer that acknowledges too early, which the harness must find."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.durability import ledger_kills
from tests.chaos.harness import chaos_evidence, kill_harness
from tests.chaos.harness.chaos_checks import receipts_kept
from tests.chaos.harness.chaos_evidence import Acknowledged, Evidence
from tests.harness.small_desk import SmallDesk

from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

GOOD = json.dumps({"outlook": "delayed", "notice": "Delays now average 25 minutes."})


@pytest.mark.chaos
async def test_every_process_dies_nothing_is_lost_and_the_ledger_is_what_was_measured(tmp_path: Path) -> None:
    found = await ledger_kills.run(tmp_path, kills=1)
    report = found.platform
    assert report.violations == {name: [] for name in report.violations}, kill_harness.table(report)
    assert found.violations == {name: [] for name in found.violations}, ledger_kills.table(found)
    assert sorted(kill.victim for kill in report.kills) == ["engine", "gateway", "worker"]
    assert report.acknowledged > 60, "there was hardly any load to lose"
    assert report.unanswered + report.refused > 0, "no request met a kill"
    assert report.publications > 1
    assert report.job_rows >= 200
    assert min(found.batches, found.engine_processes, found.total_micros) > 0, "nothing was charged"


class EarlyCommit:
    """Says that an effect is committed before it is: the fault that a lost receipt comes from."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[Any], Any]] = []

    async def submit(self, effect: Callable[[Any], Any]) -> Any:
        self.waiting.append(effect)


async def _answered(desk: SmallDesk) -> Evidence:
    """What a client was told, and what is on disk when the process is killed at this moment."""
    answers = await asyncio.gather(*(desk.answerer.answer(desk.request(question=f"{n}?")) for n in range(5)))
    return Evidence(
        acknowledged=tuple(Acknowledged(answer.prediction, answer.publication, answer.text) for answer in answers),
        **chaos_evidence.read_catalog(desk.database.path.parent),
    )


@pytest.mark.parametrize("early", [False, True])
async def test_a_writer_that_acknowledges_before_its_commit_is_found(tmp_path: Path, early: bool) -> None:
    desk = SmallDesk(tmp_path, ScriptedEngine([ScriptedGeneration(GOOD)]), commit=EarlyCommit() if early else None)
    found = receipts_kept(await _answered(desk))
    desk.close()
    assert len(found) == (5 if early else 0)
    assert all("was acknowledged and has no receipt" in one for one in found)
