"""Workers that look at a bad live release and kill themselves: ``python -m tests.chaos.watch_child FOLDER``.

For each POINT from 1 on a fork looks at the catalog ``FOLDER/POINT``, a copy of ``FOLDER/template``, and dies before
its write or commit number POINT; it ends with the first one that gets through. ``torn`` as a second argument leaves the
transactions out: the fault that the checks must find.
"""

from __future__ import annotations

import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path

from tests.chaos.rollout_child import die_at
from tests.harness.watched_release import WatchedRelease
from tests.unit.catalog.examples import NOON

LATER = NOON + timedelta(hours=3)


def main() -> None:
    folder, torn = Path(sys.argv[1]), "torn" in sys.argv
    for point in range(1, 200):
        shutil.copytree(folder / "template", folder / str(point))
        child = os.fork()
        if child == 0:
            desk = WatchedRelease(folder / str(point), at=LATER)
            die_at(point, torn)
            desk.watcher.look()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) >= 0:
            print("done", point, os.waitstatus_to_exitcode(status), flush=True)
            return


if __name__ == "__main__":
    main()
