"""Where a project's events are, and how a stream goes from the catalog to a server."""

from __future__ import annotations

from antiphon.catalog.events import EventLog, StreamHomes
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.features.streaming.nats_log import NatsEventLog
from antiphon.operations.processes import is_running, read_records
from antiphon.services.project.store import Store


def move_to_server(store: Store, stream: str) -> int:
    """Copy a stream's events to the log server, then drop them from the catalog; how many there are.

    Raises:
        InvalidInputError: the settings name no server.
        NotFoundError: the catalog has no event of such a stream.
        ConflictError: the project runs, or the server's stream has other events.
    """
    log = store.events
    if not isinstance(log, NatsEventLog):
        raise InvalidInputError(
            "The settings name no log server.",
            where="antiphon.toml, [features] log",
            next_step='Set log = "nats://HOST:PORT".',
        )
    running = [record.name for record in read_records(store.paths.run) if is_running(record)]
    if running:
        raise ConflictError(
            f"The project runs: {', '.join(running)}.",
            where=str(store.paths.root),
            next_step="Stop `antiphon up`; a stream is moved while nothing is appended.",
        )
    home = StreamHomes(store.database).of(store.scope, stream)
    if home.log is not None or home.end == 0:
        raise NotFoundError(
            f"The catalog has no events of stream {stream!r}.",
            where="STREAM",
            next_step="They are on the server already, or none ever came.",
        )
    return log.take_over(store.scope, stream, EventLog(store.database))
