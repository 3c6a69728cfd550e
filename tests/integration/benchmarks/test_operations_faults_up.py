"""``make bench-operations`` in its short form: two cases of a platform that runs, and a second run that has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def run(folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "benchmarks.operations.faults", "--size", "ci", "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--no-baro", "--jobs", "2", *arguments], cwd=ROOT, env={**os.environ, "OTEL_SDK_DISABLED": "true"},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.stdout, done.stderr[-2_000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found, done.stderr


def test_a_killed_engine_is_found_callers_are_not_blamed_and_cases_are_not_run_twice(tmp_path: Path) -> None:
    found, said = run(tmp_path)
    assert (found["cases"], found["broken"]) == (2, 0), said
    assert found["innocents_blamed"] == 0.0, said
    assert found["ledger_difference"] == 0
    cases = [json.loads(line) for line in (tmp_path / "cases-ci.jsonl").read_text().splitlines()]
    (killed,) = [one for one in cases if one["kind"] == "engine_killed"]
    assert (killed["class_"], killed["roots"]) == ("infrastructure", ["engine/engine"]), killed
    assert killed["seconds"] < 30

    with (tmp_path / "cases-ci.jsonl").open("a") as file:
        file.write('{"kind": "cut off')
    again, said = run(tmp_path)
    assert "2 of 2 cases are there already" in said
    assert again == found
