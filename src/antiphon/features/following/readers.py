"""The reader of each kind of followed place."""

from __future__ import annotations

from antiphon.core.clock import Clock
from antiphon.definitions.following import NatsSubject, PostgresTable
from antiphon.definitions.source import SourceSpec
from antiphon.features.following.file_drop import FileDropReader
from antiphon.features.following.nats_subject import NatsSubjectReader
from antiphon.features.following.postgres_table import PostgresTableReader
from antiphon.features.ports import FollowedReader


def reader_of(source: SourceSpec, clock: Clock) -> FollowedReader:
    """Makes a reader of the place that a stream follows."""
    if isinstance(source.follow, PostgresTable):
        return PostgresTableReader(source, clock)
    if isinstance(source.follow, NatsSubject):
        return NatsSubjectReader(source, clock)
    return FileDropReader(source, clock)
