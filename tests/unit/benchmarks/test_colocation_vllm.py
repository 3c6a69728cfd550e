"""What the harness over vLLM makes of runs and of the trace of decisions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.colocation import vllm
from benchmarks.colocation.outcome import Outcome, Served


def run(policy: str, times: float, batch: int) -> Outcome:
    served = tuple(Served(float(at), 100, 3, [at + times * each for each in (0.2, 0.25, 0.3)]) for at in range(10))
    return Outcome(policy, 10.0, served, batch, 0.0, 0, False)


def test_a_policy_is_told_by_what_it_took_and_what_it_gave() -> None:
    runs = {"online only": [run("online only", 1.0, 0)], "vLLM's priority": [run("vLLM's priority", 3.0, 400)]}
    alone, priority = vllm.rows(runs, 80.0)
    assert alone["within"] == 1.0
    assert (priority["within"], priority["rate"], priority["of_alone"]) == (0.0, 40.0, 0.5)
    assert priority["slowdown"][0] == pytest.approx(3.0)


def test_a_request_that_was_never_served_counts_as_infinitely_slow() -> None:
    broken = run("cap", 1.0, 0)
    broken.served[0].tokens.pop()
    found = vllm.rows({"online only": [run("online only", 1.0, 0)], "cap": [broken]}, 80.0)[1]
    assert found["within"] == 0.9
    assert json.dumps([vllm._short(value) for value in found["ttft"]]).endswith("null]")


def test_the_trace_comes_to_what_was_held_back_beside_online(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    line = {
        "online_tokens": 2,
        "batch_tokens": 3,
        "batch_tokens_by_priority_alone": 40,
        "deciding_ms": 0.5,
        "predicted_ms": 50.0,
    }
    trace.write_text("".join(json.dumps(line | {"online_tokens": each}) + "\n" for each in (2, 2, 0)))
    assert vllm.decisions(trace) == {
        "passes_held": 3, "beside_online": 2, "batch_tokens_held": 74, "deciding_ms": [0.5, 0.5],
        "deciding_share": 0.01,
    }  # fmt: skip


def test_every_policy_of_every_size_is_there() -> None:
    names = {policy.name for policy in vllm.POLICIES}
    assert all(set(size.policies) <= names and vllm.ONLINE_ONLY.name in size.policies for size in vllm.SIZES.values())
