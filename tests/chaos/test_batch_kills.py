"""A batch whose processes are killed, and a checker that finds what could go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from benchmarks.durability import batch_kills
from benchmarks.durability.batch_checker import Evidence, check


@pytest.mark.chaos
async def test_every_request_of_a_batch_has_its_one_line_whatever_is_killed(tmp_path: Path) -> None:
    report = await batch_kills.run(tmp_path, kills=3, count=60, each=3, concurrency=2)
    assert report.violations == {name: [] for name in report.violations}, batch_kills.table(report)
    assert (report.kills, report.requests) == ({"gateway": 1, "engine": 1, "worker": 1}, 60)
    assert report.violations, "nothing was checked"


def whole() -> dict[str, Any]:
    """Evidence of a batch without a fault, as what ``Evidence`` takes."""
    names = [f"r{number}" for number in range(4)]
    sent = [
        {"custom_id": name, "body": {"messages": [{"role": "user", "content": f"say {name}"}]}} for name in names
    ]  # fmt: skip
    answers = [
        {
            "id": f"batch_req_{name}",
            "custom_id": name,
            "response": {"status_code": 200, "body": {"choices": [{"message": {"content": f"said {name}"}}]}},
            "error": None,
        }
        for name in names[:3]
    ]
    errors = [{"id": "batch_req_r3", "custom_id": "r3", "response": {"status_code": 400}, "error": None}]
    moments = {"created_at": 1, "in_progress_at": 2, "finalizing_at": 3, "completed_at": 3}
    counts = {"total": 4, "completed": 3, "failed": 1}
    return {
        "sent": sent,
        "answers": answers,
        "errors": errors,
        "batch": {"status": "completed", "request_counts": counts, **moments},
        "reference": {"say r1": "said r1"},
        "cut": 0,
    }


def judged(found: dict[str, Any]) -> set[str]:
    def text(lines: list[Any]) -> bytes:
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    output, error = text(found["answers"]), text(found["errors"])
    sizes = (len(output), len(error))
    output = output[: len(output) - found["cut"]]
    evidence = Evidence(text(found["sent"]), found["batch"], output, error, sizes, found["reference"])
    return {name for name, wrong in check(evidence).items() if wrong}


def test_a_batch_without_a_fault_passes() -> None:
    assert judged(whole()) == set()


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lambda one: one["answers"].pop(), {"lost", "counts"}),
        (lambda one: one["answers"].append(one["answers"][0]), {"doubled", "counts", "order"}),
        (lambda one: one["answers"][0].update(custom_id="r9"), {"lost", "strange", "answers"}),
        (lambda one: one["answers"].reverse(), {"order"}),
        (lambda one: one["batch"]["request_counts"].update(completed=4), {"counts"}),
        (lambda one: one.update(cut=9), {"valid", "lost", "counts"}),
        (lambda one: one["batch"].update(status="failed"), {"ended"}),
        (lambda one: one["batch"].update(finalizing_at=None), {"times"}),
        (lambda one: one["answers"][1].update(response=one["answers"][0]["response"]), {"answers"}),
        (lambda one: one["answers"][1].update(id="batch_req_r0"), {"doubled"}),
    ],
)
def test_each_fault_is_found(fault: Callable[[dict[str, Any]], Any], found: set[str]) -> None:
    broken = json.loads(msgspec.json.encode(whole()))
    fault(broken)
    assert judged(broken) == found
