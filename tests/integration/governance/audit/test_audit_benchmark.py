"""The short form of ``benchmarks/governance/audit.py``: its lines hold on a small sample."""

from __future__ import annotations

from pathlib import Path

from benchmarks.governance import audit as benchmark


def test_the_log_keeps_up_with_its_contract(tmp_path: Path) -> None:
    speed = benchmark.throughput(tmp_path / "large", 4_000, 2, 20)
    assert speed["sound"]
    # On a machine that is shared with other work; the full form asks for 10,000, by its median block.
    assert speed["records_per_second"] > 1_000
    cost = benchmark.enqueue(tmp_path / "cost", 500)
    assert cost["p50"] <= benchmark.ENQUEUE_SECONDS


def test_histories_are_told_apart(tmp_path: Path) -> None:
    found = benchmark.histories(tmp_path)
    assert found == {"cut": True, "fork": True, "cut_without_witness": False}
