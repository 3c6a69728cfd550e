"""A process that builds one snapshot in Redis, to be killed while it does: URL and the world's folder as arguments."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.features.desk import specs
from tests.integration.features.world import NOON, World

from antiphon.core.scope import Scope
from antiphon.features.online.redis import writer as redis_writer
from antiphon.features.online.redis.overlay import RedisOverlay
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.online.redis.store import RedisStore


def main() -> None:
    url, folder = sys.argv[1], Path(sys.argv[2])
    # Many small batches, so that there is a middle to be killed in.
    redis_writer._BATCH_VALUES = redis_writer._UNDER_WAY = 1
    server = RedisServer(url)
    store, overlay = RedisStore(server, b"k" * 32), RedisOverlay(server, Scope())
    world = World(folder, *specs(folder / "departures.parquet"), online=store, overlay=overlay)
    print("ready", flush=True)
    for line in sys.stdin:
        publication = world.publish(NOON if line.strip() == "noon" else NOON.replace(hour=11))
        print("published", publication.number, flush=True)


if __name__ == "__main__":
    main()
