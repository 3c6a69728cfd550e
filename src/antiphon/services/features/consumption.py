"""Consumption of streams in a worker: the partitions that it holds, and the loop that takes their events."""

from __future__ import annotations

from functools import partial

from antiphon.catalog.doorbell import Topic, ring_name
from antiphon.core.clock import parse_duration
from antiphon.orchestration.duties import LeaseHolder
from antiphon.orchestration.stream_partitions import StreamPartitions
from antiphon.orchestration.streams import StreamPoller
from antiphon.orchestration.worker import WorkerPart
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store

VIEW_TOPICS: tuple[Topic, ...] = ("features", "releases", "runs")
"""Rung when other views may be followed."""


def stream_consumption(
    store: Store, features: FeaturePlatform, worker: str, holder: LeaseHolder
) -> tuple[WorkerPart, WorkerPart]:
    """The parts of a worker of this name that consume its share of the project's streams."""
    settings, doorbell, environment = store.settings.worker, store.database.doorbell, store.scope.environment
    poll = parse_duration(settings.poll).total_seconds()
    doorbell.listen(features.views_changed, [ring_name(topic, environment) for topic in VIEW_TOPICS])
    events = doorbell.wakeup(environment, "events", *VIEW_TOPICS)
    partitions = StreamPartitions(
        holder,
        store.scope.tenant,
        worker,
        streams=partial(features.streams, believed=poll),
        shares=settings.stream_shares,
        changed=events.wake,
        wakeup=doorbell.wakeup(environment, "features", "leases"),
    )
    poller = StreamPoller(
        lambda limit: features.consume(limit, believed=poll, owned=partitions.owned),
        poll=poll if store.nats is None else parse_duration(settings.stream_poll).total_seconds(),
        wakeup=events,
        unsettled=lambda: features.consumer.unsettled,
        batch=settings.stream_batch,
        budget=parse_duration(settings.stream_budget).total_seconds(),
    )
    return partitions, poller
