"""Begins an evaluation and dies by SIGKILL in the middle of it: ``python -m … FOLDER ROW``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.integration.learning.evaluated_desk import EvaluatedDesk


async def main(folder: Path, row: int) -> None:
    desk = EvaluatedDesk(folder)

    def die(request: Any) -> None:
        if len(desk.requests) == row:
            os.kill(os.getpid(), signal.SIGKILL)

    desk.before = die
    await desk.evaluator.evaluate(desk.candidate(), desk.dataset, with_safety=False, id="eval_killed")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
