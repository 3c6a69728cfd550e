from pathlib import Path

import pytest
from benchmarks.colocation import kept_runs
from benchmarks.colocation.kept_runs import KeptRuns
from benchmarks.colocation.outcome import Outcome, Served
from benchmarks.colocation.traces import Scaling


def outcome(rate: int) -> Outcome:
    return Outcome(
        "ours", 10.0, (Served(0.5, 10, 2, [0.7, 0.8]), Served(1.0, 5, 1, [])), rate, 4.0, 9, False, 0.01, 0.02
    )


def test_a_run_is_made_once_for_the_same_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.jsonl"
    made: list[int] = []

    def make() -> Outcome:
        made.append(1)
        return outcome(len(made))

    first = KeptRuns(path).run("conv", Scaling(), 0, 10.0, "ours", make)
    assert KeptRuns(path).run("conv", Scaling(), 0, 10.0, "ours", make) == first
    assert KeptRuns(path).run("conv", Scaling(), 1, 10.0, "ours", make).batch_tokens == 2
    monkeypatch.setattr(kept_runs, "sources", lambda: "changed")
    assert KeptRuns(path).run("conv", Scaling(), 0, 10.0, "ours", make).batch_tokens == 3
    assert KeptRuns(None).run("conv", Scaling(), 0, 10.0, "ours", make).batch_tokens == 4
