"""The line of ``make bench-applications`` shows the newest kept measurement of the other benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.applications.state import MEASURED, RESULTS, newest


def test_the_newest_line_of_each_result_is_shown_with_its_size_and_date_and_none_where_there_is_none(
    tmp_path: Path,
) -> None:
    lines = [
        {"benchmark": "judged_means", "at": "2026-11-29", "size": "ci", "covers": 0.9},
        {"benchmark": "judged_means", "at": "2026-11-30", "size": "full", "covers": 0.95},
    ]
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "judged-means.jsonl").write_text(text + '\n{"benchmark": "judged_me')
    (tmp_path / "rollout-statistics.jsonl").write_text('{"at": "2026-11-28", "full": true, "alpha": 0.01}\n')
    (tmp_path / "workbench.jsonl").write_text('{"identical": 9}\n')
    (tmp_path / "guards.jsonl").write_text("")
    found = newest(tmp_path)
    assert found.pop("judged_means") == {"size": "full", "at": "2026-11-30", "figures": {"covers": 0.95}}
    assert found.pop("rollout_statistics") == {"size": "full", "at": "2026-11-28", "figures": {"alpha": 0.01}}
    assert found.pop("workbench") == {"size": None, "at": None, "figures": {"identical": 9}}
    assert set(found.values()) == {None}
    assert set(found) == {"text_learning", "guards", "conversations", "retrieval"}


@pytest.mark.parametrize("name", sorted(MEASURED.values()))
def test_what_is_kept_here_can_be_read(name: str) -> None:
    """Each name is that of a file that a benchmark keeps its lines in."""
    benchmarks = RESULTS.parent
    sources = [path.read_text(encoding="utf-8") for path in benchmarks.rglob("*.py") if path.name != "state.py"]
    assert any(f'"{name}.jsonl"' in source for source in sources)
