"""Publishes, or takes a stream, where no file may become longer than so many bytes, as on a disk that runs full."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from tests.integration.features.desk import specs
from tests.integration.features.world import NOON, World

from antiphon.core.errors import AntiphonError


def main(folder: Path, longest: int, doing: str) -> None:
    world = World(folder, *specs(folder / "departures.parquet"))
    # Beyond the limit a write fails with EFBIG where a full disk has ENOSPC; Python ignores the signal.
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest, longest))
    try:
        if doing == "publish":
            world.publish(NOON)
        else:
            world.consume()
        said = {"ended": "done"}
    except AntiphonError as error:
        said = {
            "ended": type(error).__name__, "what": error.what, "where": error.where or "",
            "next_step": error.next_step or "",
        }  # fmt: skip
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
