"""A process that answers under budgets: ``python -m tests.chaos.budget_child FOLDER REQUESTS [--forever]``.

It prints a line once it is ready, begins when it reads one, and prints what became of its requests as JSON; with
``--forever`` it begins again until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.harness.budget_project import BudgetProject


async def main(folder: Path, requests: int, forever: bool) -> None:
    project = BudgetProject(folder, seconds=0.02)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    found = await project.crowd(requests)
    while forever:
        print(json.dumps(found), flush=True)
        found = await project.crowd(requests)
    print(json.dumps(found), flush=True)
    await project.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), "--forever" in sys.argv))
