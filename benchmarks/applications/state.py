"""The newest measurement that is kept of each benchmark whose figures stand beside the blueprints'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"

MEASURED = {
    "rollout_statistics": "rollout-statistics",
    "judged_means": "judged-means",
    "text_learning": "text_learning",
    "guards": "guards",
    "workbench": "workbench",
    "conversations": "conversations",
    "retrieval": "retrieval",
}
"""What is shown to the name of its results' file."""


def newest(folder: Path = RESULTS) -> dict[str, dict[str, Any] | None]:
    """Size, date and figures of the last line of each file; ``None`` where nothing is kept.

    Size or date are ``None`` where a line does not say them.
    """
    return {name: _last(folder / f"{file}.jsonl") for name, file in MEASURED.items()}


def _last(path: Path) -> dict[str, Any] | None:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in reversed(lines):
        try:
            figures = json.loads(line)
        except ValueError:  # A benchmark that was ended while it wrote.
            continue
        full = figures.pop("full", None)
        size = figures.pop("size", None) if full is None else ("full" if full else "ci")
        figures.pop("benchmark", None)
        return {"size": size, "at": figures.pop("at", None), "figures": figures}
    return None
