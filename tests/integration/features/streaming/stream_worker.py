"""A worker process that consumes its part of a stream: folder, Redis URL or ``-``, its name, seconds of a lease."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from antiphon import Entity, Source, col, count, feature_view, sum
from antiphon.catalog.database import Database
from antiphon.catalog.features.events import EventLog
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.scope import Scope
from antiphon.durable.claims import WORKERS
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.redis.overlay import RedisOverlay
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.ports import StreamedOverlay
from antiphon.features.streaming.consumer import StreamConsumer
from antiphon.orchestration.duties import Duties, LeaseHolder
from antiphon.orchestration.stream_partitions import StreamPartitions
from antiphon.orchestration.streams import StreamPoller
from antiphon.orchestration.worker import work

SCOPE, STREAM = Scope(), "orders"
shop = Entity("shop", ["shop"])


@feature_view(entity=shop, source=Source.stream(STREAM, event_time="at", event_id="id"))
class Sold:
    orders = count(window="2h")
    amount = sum(col.amount, window="2h", scale="1")


def consumer_of(folder: Path, redis: str, stack: ExitStack) -> tuple[Database, StreamConsumer, StreamedOverlay]:
    """The stores in a folder, or the server at a URL for the overlay, with a consumer; closed with the stack."""
    database = stack.enter_context(closing(Database.open(f"sqlite:///{folder}/catalog.db")))
    online = stack.enter_context(closing(LmdbStore(folder / "online", b"k" * 32)))
    overlay: StreamedOverlay
    if redis == "-":
        overlay = stack.enter_context(closing(LmdbOverlay(folder / "online", SCOPE)))
    else:
        overlay = RedisOverlay(stack.enter_context(closing(RedisServer(redis))), SCOPE)
    log = EventLog(database)
    return database, StreamConsumer(SCOPE, log=log, overlay=overlay, online=online, views=[Sold.spec()]), overlay


async def consume(folder: Path, redis: str, name: str, seconds: float) -> None:
    """Consume until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with ExitStack() as stack:
        database, consumer, _ = consumer_of(folder, redis, stack)
        events = database.doorbell.wakeup(SCOPE.environment, "events")
        leases = ProcessLeases(database, SCOPE.environment)
        holder = LeaseHolder(leases, f"{name}/{os.getpid()}", lambda holder: False, seconds=seconds)
        partitions = StreamPartitions(
            holder, SCOPE.tenant, name, streams=lambda: consumer.streams, shares=2, changed=events.wake
        )
        poller = StreamPoller(lambda limit: consumer.poll(limit, partitions.owned), poll=0.2, batch=20, wakeup=events)
        print("ready", flush=True)
        await work([Duties(f"{WORKERS}{name}", [partitions, poller], holder)], stop)


if __name__ == "__main__":
    asyncio.run(consume(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])))
