from __future__ import annotations

import msgspec
import pytest
from tests.unit.catalog.examples import NOON, receipt

from antiphon.catalog.ledger import MeteredUsage
from antiphon.catalog.meters import MeterState
from antiphon.catalog.serving.receipt import CacheReceipt, UsageReceipt
from antiphon.operations.cost.metering import engine_usages, memory_usages, usages_of

USED = UsageReceipt(prompt_tokens=30, cached_prompt_tokens=10, completion_tokens=5, engine_seconds=0.1234567)


def quantities(found: list[MeteredUsage]) -> dict[str, int]:
    return {one.resource: one.quantity for one in found}


def test_an_answer_is_what_was_computed_for_it() -> None:
    found = usages_of(receipt("pred_1", usage=USED, engine="main"))
    assert quantities(found) == {
        "answer": 1,
        "engine": 123_457,
        "prompt_token": 20,
        "cached_prompt_token": 10,
        "completion_token": 5,
    }
    assert {(one.application, one.release, one.path, one.principal, one.engine) for one in found} == {
        ("desk", "rel_1", "online", "me", "main")
    }


def test_an_answer_of_an_engine_that_declares_gpus_counts_their_time_beside_the_engines() -> None:
    used = msgspec.structs.replace(USED, gpu_seconds=USED.engine_seconds * 4)
    found = quantities(usages_of(receipt("pred_1", usage=used, engine="big")))
    assert (found["engine"], found["gpu"]) == (123_457, 493_827)
    cache = CacheReceipt("stored", prediction="pred_0", saved=used)
    assert quantities(usages_of(receipt("pred_2", usage=UsageReceipt(), cache=cache)))["saved_gpu"] == 493_827


def test_an_answer_that_is_served_again_costs_nothing_and_says_what_it_saved() -> None:
    found = usages_of(
        receipt("pred_1", usage=UsageReceipt(), cache=CacheReceipt("stored", prediction="pred_0", saved=USED))
    )
    assert quantities(found) == {
        "answer": 1,
        "saved_engine": 123_457,
        "saved_prompt_token": 20,
        "saved_completion_token": 5,
    }


@pytest.mark.parametrize("order", ["job_06abc", "batch_06abc"])
def test_a_row_of_a_table_job_or_batch_names_it_and_nobody_else_may(order: str) -> None:
    row = receipt("pred_1", request=f"{order}_17", path="batch")
    assert {one.work for one in usages_of(row)} == {order}
    assert {one.work for one in usages_of(receipt("pred_1", request=f"{order}_17"))} == {""}


def reading(process: str, total: int, part: int) -> MeterState:
    return MeterState("engine/main", process, total, part, NOON)


def test_engine_time_counts_from_the_last_reading_or_from_the_process() -> None:
    assert quantities(engine_usages(None, reading("a", 100, 30), "main")) == {"engine_measured": 100, "engine_idle": 70}
    last = reading("a", 100, 30)
    assert quantities(engine_usages(last, reading("a", 160, 80), "main")) == {"engine_measured": 60, "engine_idle": 10}
    assert quantities(engine_usages(last, reading("b", 40, 40), "main")) == {"engine_measured": 40}
    assert quantities(engine_usages(last, reading("a", 90, 20), "main")) == {}
    # Busier than it lived: clocks of two threads were read one after the other.
    assert quantities(engine_usages(last, reading("a", 110, 90), "main")) == {"engine_measured": 10}


def test_gpus_count_as_often_as_the_engine_has_them() -> None:
    found = quantities(engine_usages(reading("a", 100, 30), reading("a", 160, 80), "main", gpus=3))
    assert found == {"engine_measured": 60, "engine_idle": 10, "gpu_measured": 180, "gpu_idle": 30}


def test_memory_counts_for_the_time_that_its_process_was_up() -> None:
    assert quantities(memory_usages(None, reading("a", 3_000, 2_000_000), "main")) == {"memory": 6_000}
    last = reading("a", 3_000, 2_000_000)
    assert quantities(memory_usages(last, reading("a", 5_000, 2_500_000), "main")) == {"memory": 2_500}
    assert quantities(memory_usages(last, reading("b", 5_000, 1_000_000), "main")) == {"memory": 5_000}
    assert quantities(memory_usages(last, reading("a", 5_000, 1_900_000), "main")) == {}
