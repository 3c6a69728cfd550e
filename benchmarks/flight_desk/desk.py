"""``python -m benchmarks.flight_desk.desk``: the flight desk over a month, its summary kept in ``results/desk.jsonl``.

The same questions four ways, beside each other in one run: the peers are the other ways, a base rate and scikit-learn's
logistic regression. An interrupted run goes on where it stopped. Every argument of ``examples.flight_desk.run`` is
accepted.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

from examples.flight_desk import run

RESULTS = Path(__file__).parents[1] / "results" / "desk.jsonl"


def main(arguments: list[str]) -> int:
    """Run, show what it says, keep its last line."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        code = run.main(["--ways-only", *(() if "--size" in arguments else ("--size", "full")), *arguments])
    text = shown.getvalue()
    sys.stdout.write(text)
    lines = text.strip().splitlines()
    if code == 0 and lines:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        with RESULTS.open("a", encoding="utf-8") as kept:
            kept.write(lines[-1] + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
