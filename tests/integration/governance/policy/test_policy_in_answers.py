"""Policy where it acts: in answer(), and in a table job over the same application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import DESK, SCOPE, START, SmallDesk
from tests.harness.stored_files import batch_context

from antiphon.batch.orders import TableOrder, TableOrders
from antiphon.batch.table_job import TableJobs
from antiphon.catalog.releases.releases import Release
from antiphon.core.errors import ForbiddenError
from antiphon.core.scope import Scope
from antiphon.definitions.application import Reuse
from antiphon.definitions.sensitivity import Tags
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.document import default_document
from antiphon.governance.policy.request import PolicyRow, application_resource
from antiphon.governance.policy.residual import RowPolicy
from antiphon.testing.scripted_engine import ScriptedEngine, echo

TAGS = {
    "congestion.delay": Tags("internal", ("passenger-information",)),
    "weather.wind": Tags("restricted", ("passenger-information", "planning")),
}
FREE = msgspec.structs.replace(DESK, output_schema=None, guards=(), classes=(), tags=TAGS, reuse=Reuse(mode="always"))
RULES = """
@id("hide-restricted") @mask("null") forbid (principal, action == Action::"see", resource)
when { resource.sensitivity > principal.clearance };
@id("not-from-newark") forbid (principal, action == Action::"answer", resource)
when { resource.hasTag("origin") && resource.getTag("origin") like "EW*" };
@id("nothing-old") forbid (principal, action == Action::"answer", resource) when { context.as_of < 1000000000 };
"""
CLEARED = Principal("boss", "default", "service", clearance="restricted")
PLAIN = Principal("clerk", "default", "service")
LONG_AGO = START - timedelta(days=10_000)


class _Run(msgspec.Struct):
    scope: Scope = SCOPE
    stopping: bool = False

    def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        pass

    async def fenced(self, effect: Callable[[Any], Any]) -> Any:
        return await asyncio.to_thread(effect, None)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[SmallDesk]:
    made = SmallDesk(tmp_path, ScriptedEngine(echo), FREE, policies=default_document().cedar + RULES)
    yield made
    await made.answerer.close()
    made.close()


async def test_a_masked_feature_reaches_neither_prompt_nor_receipt_nor_another_s_cache(desk: SmallDesk) -> None:
    whole = await desk.answerer.answer(desk.request(principal=CLEARED))
    masked = await desk.answerer.answer(desk.request(principal=PLAIN))
    assert isinstance(desk.engine, ScriptedEngine)
    assert ["wind 10 mph" in one.prompt for one in desk.engine.asked] == [True, False]
    assert "wind None mph" in desk.engine.asked[1].prompt
    assert masked.receipt.cache.origin == "generated", "an answer made with the wind is stored for this very question"
    wind = next(feature for feature in masked.receipt.features if feature.name == "weather.wind")
    assert (wind.value, wind.printed, wind.contract) == (None, None, "masked")
    again = await desk.answerer.answer(desk.request(principal=CLEARED))
    assert (again.receipt.cache.origin, again.text) == ("stored", whole.text)


async def test_without_a_mask_what_is_above_the_clearance_denies(tmp_path: Path) -> None:
    desk = SmallDesk(tmp_path, ScriptedEngine(echo), FREE)
    with pytest.raises(ForbiddenError, match="clearance"):
        await desk.answerer.answer(desk.request(principal=PLAIN))
    assert (await desk.answerer.answer(desk.request(principal=CLEARED))).text
    other = desk.publish(msgspec.structs.replace(FREE, purpose="planning"))
    with pytest.raises(ForbiddenError, match="feature-purpose"):
        await desk.answerer.answer(desk.request(principal=CLEARED, release=other.id))
    await desk.answerer.close()
    desk.close()


async def test_rows_and_moments_decide(desk: SmallDesk) -> None:
    with pytest.raises(ForbiddenError, match="not-from-newark"):
        await desk.answerer.answer(desk.request(entity={"flight": "B6 1", "origin": "EWR"}))
    with pytest.raises(ForbiddenError, match="nothing-old"):
        await desk.answerer.answer(desk.request(as_of=LONG_AGO))
    receipts = desk.receipts.list(SCOPE)
    assert receipts == [], "what was denied leaves no receipt"


@pytest.mark.parametrize("prefiltered", [True, False])
async def test_a_table_job_lists_the_rows_that_were_denied_with_their_reason(
    desk: SmallDesk, tmp_path: Path, prefiltered: bool
) -> None:
    asked: list[int] = []

    def decide(
        scope: Scope, principal: Principal, release: Release, rows: Sequence[tuple[dict[str, str], datetime | None]]
    ) -> Sequence[Any]:
        application = release.bundle.application
        policy = RowPolicy(
            desk.decider, principal, "answer", application_resource(application), application.entity_keys,
            {"purpose": application.purpose, "tenant": scope.tenant, "path": "batch"},
        )  # fmt: skip
        assert policy.outside is None
        asked.append(len(rows))
        moments = [PolicyRow(entity, int((moment or START).timestamp())) for entity, moment in rows]
        return policy.decide(moments, recheck=False)

    lines = [{"flight": f"B6 {line}", "origin": ("JFK", "EWR", "LGA")[line % 3]} for line in range(12)]
    lines[3]["as_of"] = LONG_AGO.isoformat()
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = batch_context(desk.database)
    orders = TableOrders(
        desk.jobs, desk.releases, desk.blobs, desk.runs, desk.database, tmp_path, common.estimates, common.clock
    )
    job = orders.place(SCOPE, PLAIN, TableOrder("desk", input="in.jsonl", output="out.jsonl", as_of=START))
    jobs = TableJobs(
        desk.jobs, desk.releases, desk.blobs, desk.answerer.answer, 4, common, decide if prefiltered else None
    )
    result = await jobs.run(_Run(), {"job": job.id})
    denied = {1: "not-from-newark", 3: "nothing-old", 4: "not-from-newark", 7: "not-from-newark", 10: "not-from-newark"}
    assert (result["status"], result["rows"], result["failed"], result["denied"]) == ("completed", 12, 5, 5)
    assert {one["line"]: True for one in result["denied_rows"]} == dict.fromkeys(denied, True)
    for one in result["denied_rows"]:
        assert denied[one["line"]] in one["reason"]
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line for line, row in enumerate(out) if row["answer_error"]] == sorted(denied)
    assert all(row["answer_text"] for line, row in enumerate(out) if line not in denied)
    assert asked == ([12] if prefiltered else [])


async def test_a_row_that_a_wrong_predicate_lets_through_is_still_not_answered(desk: SmallDesk, tmp_path: Path) -> None:
    class Allowed(msgspec.Struct):
        allowed: bool = True
        reason: str = ""

    common = batch_context(desk.database)
    orders = TableOrders(
        desk.jobs, desk.releases, desk.blobs, desk.runs, desk.database, tmp_path, common.estimates, common.clock
    )
    rows = ({"flight": "B6 1", "origin": "EWR"},)
    job = orders.place(SCOPE, PLAIN, TableOrder("desk", rows=rows, as_of=START))
    jobs = TableJobs(
        desk.jobs, desk.releases, desk.blobs, desk.answerer.answer, 4, common,
        lambda scope, principal, release, rows: [Allowed() for _ in rows],
    )  # fmt: skip
    assert (await jobs.run(_Run(), {"job": job.id}))["denied"] == 1
