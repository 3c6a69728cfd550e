"""A worker that follows payments and consumes them: folder, URL of the database, its name, seconds of a lease."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

from tests.integration.features.following.postgres_payments import followed_view

from antiphon.catalog.database import Database
from antiphon.catalog.features.events import EventLog
from antiphon.catalog.features.followed_streams import FollowedStreams
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.clock import SystemClock
from antiphon.core.scope import Scope
from antiphon.definitions.source import SourceSpec
from antiphon.durable.claims import WORKERS
from antiphon.features.following.followed_places import FollowedPlaces
from antiphon.features.following.readers import reader_of
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.streaming.consumer import StreamConsumer
from antiphon.orchestration.duties import Duties, LeaseHolder
from antiphon.orchestration.source_followers import SourceFollower, SourceFollowers
from antiphon.orchestration.stream_partitions import StreamPartitions
from antiphon.orchestration.streams import StreamPoller
from antiphon.orchestration.worker import work

SCOPE = Scope()


async def follow(folder: Path, url: str, name: str, seconds: float) -> None:
    """Follow and consume until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    view = followed_view(url).spec()
    with (
        closing(Database.open(f"sqlite:///{folder}/catalog.db")) as database,
        closing(LmdbStore(folder / "online", b"k" * 32)) as online,
        closing(LmdbOverlay(folder / "online", SCOPE)) as overlay,
    ):
        log, leases = EventLog(database), ProcessLeases(database, SCOPE.environment)
        consumer = StreamConsumer(SCOPE, log=log, overlay=overlay, online=online, views=[view])
        process = f"{name}/{os.getpid()}"
        holder = LeaseHolder(leases, process, lambda _: False, seconds=seconds)

        places = FollowedPlaces(
            SCOPE,
            streams=FollowedStreams(database),
            reader=partial(reader_of, clock=SystemClock()),
            append=log.append,
            clock=SystemClock(),
        )

        def duty(source: SourceSpec) -> Duties:
            follower = SourceFollower(source, places)
            return Duties(f"follow/{source.name}", [follower], holder)

        events = database.doorbell.wakeup(SCOPE.environment, "events")
        partitions = StreamPartitions(holder, SCOPE.tenant, name, streams=lambda: consumer.streams, changed=events.wake)
        poller = StreamPoller(lambda limit: consumer.poll(limit, partitions.owned), poll=0.2, batch=200, wakeup=events)
        followers = SourceFollowers(lambda: {view.source.name: view.source}, duty)
        print("ready", flush=True)
        await work([Duties(f"{WORKERS}{name}", [partitions, poller, followers], holder)], stop)


if __name__ == "__main__":
    asyncio.run(follow(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])))
