"""``antiphon batch run --dry-run``, ``--within`` and ``--accept-late``, over what was measured before."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from antiphon.catalog.batch.batch_work import BatchWork, EngineSupply, RowUsage, Sizes
from antiphon.services.project.store import Store

ORDER = ("batch", "run", "desk", "--input", "orders.csv", "--output", "x.jsonl")


def test_an_order_is_foreseen_and_refused_when_it_cannot_be_kept(antiphon, project) -> None:
    antiphon("apply")
    before = antiphon(*ORDER, "--dry-run").out
    assert "not known" in before
    assert "to compute, by the prompt" in before
    measured(project)
    told = json.loads(antiphon(*ORDER, "--dry-run", "--within", "30d", "--json").out)
    estimate = told["estimate"]
    assert estimate["rows"] == told["rows"] > 0
    assert 0.005 < estimate["engine_seconds"] / told["rows"] < 0.02, "as rows took before"
    assert estimate["earliest"] <= estimate["ends_at"] <= estimate["latest"]
    assert (estimate["late"], estimate["cost"] >= 0, estimate["currency"]) == ("no", True, "USD")
    late = antiphon(*ORDER, "--within", "1s", "--no-wait")
    assert late.code == 2, late.out
    assert "The order would end about" in late.err
    assert "accept_late" in late.err
    made = antiphon(*ORDER, "--within", "1s", "--no-wait", "--accept-late", "--json")
    assert made.code == 0, made.err
    listed = json.loads(antiphon("batch", "list", "--json").out)
    assert [job["estimate"]["late"] if job["estimate"] else None for job in listed] == ["certain", None]


@pytest.mark.parametrize(("window", "says"), [("soon", "not a duration"), ("31d", "longer than 30 days")])
def test_a_window_is_a_duration(antiphon, window, says) -> None:
    antiphon("apply")
    failed = antiphon(*ORDER, "--within", window, "--no-wait")
    assert failed.code == 2
    assert says in failed.err


def measured(project) -> None:
    """Earlier rows took a hundredth of a second each, and batch work got half of the engine."""
    store = Store.open(project)
    try:
        past = store.jobs.create(
            store.scope, application="desk", release=None, input="", output="", principal="ada", kind="table"
        )
        work = BatchWork(store.database)
        work.declare(store.scope, past.id, "table/desk", Sizes(100), None)
        work.used(store.scope, past.id, RowUsage(100, 0, 0, 9_000, 1_000, 3_200, 1.0))
        store.jobs.set_status(store.scope, past.id, "completed")
        began = datetime.now(UTC).timestamp() // 300 * 300
        for bucket in range(12):
            work.supply(store.scope, "worker", EngineSupply(began - 300.0 * bucket, 300.0, 150.0))
    finally:
        store.close()


def test_before_any_measurement_the_prompts_length_says_how_many_tokens(antiphon) -> None:
    antiphon("apply")
    told = antiphon(*ORDER, "--dry-run", "--json").json()
    # system, two examples and a line of figures: about 600 characters a row, and the blueprint's 80 tokens written
    assert 150 < told["prompt_tokens"] / told["rows"] < 250
    assert told["output_limit"] == 80 * told["rows"]


def test_precomputing_needs_no_file(antiphon) -> None:
    antiphon("apply")
    made = antiphon("batch", "run", "desk", "--input", "orders.csv", "--precompute", "--no-wait", "--json")
    assert made.code == 0, made.err
    assert (made.json()["kind"], made.json()["output"]) == ("precompute", "")
    refused = antiphon("batch", "run", "desk", "--input", "orders.csv", "--no-wait")
    assert refused.code == 2
    assert "--precompute" in refused.err
