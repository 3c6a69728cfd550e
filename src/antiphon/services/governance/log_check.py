"""Opening every event that a project has in a log on a server: a page at a time, and on where it was cut off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime

import msgspec

from antiphon.catalog.features.events import StreamHomes
from antiphon.catalog.sealed_columns import CheckPosition, CheckProgress, UnreadablePayload
from antiphon.core.errors import AntiphonError
from antiphon.core.scope import Scope
from antiphon.features.streaming.nats_log import NatsEventLog
from antiphon.services.project.store import Store

_PAGE = 200
"""Events in memory at once; a message of a server is 1 MiB at most unless it was told otherwise."""

_MOST_PROBLEMS = 1_000
"""Problems that are listed of a stream; further ones are counted."""


class CheckedStream(msgspec.Struct, frozen=True):
    """A stream whose events were opened.

    Attributes:
        events: how many of it were looked at, with those of a check before that was cut off.
        resumed: the offset after which this check went on; 0 when it began at the first.
        since: when what lies before that was checked.
        unopened: how many do not open.
    """

    scope: str
    stream: str
    events: int
    resumed: int
    since: datetime | None
    unopened: int


class LogCheck(msgspec.Struct, frozen=True):
    """Result of opening the log: events by data key (``plaintext`` without one), and those that do not open."""

    by_key: dict[str, int]
    problems: tuple[UnreadablePayload, ...]
    streams: tuple[CheckedStream, ...]


def check_log(store: Store, tell: Callable[[str, int], None], *, anew: bool = False) -> LogCheck:
    """Open every event that is on the log's server; none when it is in the catalog.

    A stream that cannot be read (its server is away, events are gone from it) is a problem of its own, and keeps no
    other from being looked at.

    Args:
        tell: told the stream and how many of its events were gone through.
        anew: begin at every stream's first event, even where a check was cut off less than a day ago.
    """
    by_key: Counter[str] = Counter()
    problems: list[UnreadablePayload] = []
    streams: list[CheckedStream] = []
    for scope, stream in StreamHomes(store.database).elsewhere():
        try:
            found, reached = _check(store, scope, stream, tell, anew)
        except AntiphonError as error:
            problems.append(
                UnreadablePayload("log", str(scope), stream, f"{error.what} {error.next_step or ''}".strip())
            )
            continue
        by_key.update(reached.by_key)
        problems.extend(reached.problems)
        streams.append(found)
    return LogCheck(dict(by_key), tuple(problems), tuple(streams))


def on_server(store: Store) -> dict[str, int | None]:
    """Counts the events of each stream in a log on a server, where none is sealed anew."""
    found: dict[str, int | None] = {}
    for scope, stream in StreamHomes(store.database).elsewhere():
        try:
            found[f"{scope}/{stream}"] = store.events.end(scope, stream)
        except AntiphonError:
            found[f"{scope}/{stream}"] = None
    return found


def _check(
    store: Store, scope: Scope, stream: str, tell: Callable[[str, int], None], anew: bool
) -> tuple[CheckedStream, CheckPosition]:
    log = store.events
    end = log.end(scope, stream)  # of a project that names no server, this says so
    assert isinstance(log, NatsEventLog)
    progress, name = CheckProgress(store.database), f"log {stream}"
    target = StreamHomes(store.database).of(scope, stream).log or ""
    before = CheckPosition() if anew else progress.of(scope, name, target)
    reached = before
    while reached.through < end:
        by_key, problems = Counter(reached.by_key), list(reached.problems)
        page = log.check(scope, stream, reached.through, min(_PAGE, end - reached.through))
        for each in page:
            by_key[each.key] += 1
            if each.problem is not None:
                by_key[_UNOPENED] += 1
                if len(problems) < _MOST_PROBLEMS:
                    problems.append(
                        UnreadablePayload("log", str(scope), f"{stream}, offset {each.offset}", each.problem)
                    )
        reached = CheckPosition(page[-1].offset, dict(by_key), tuple(problems))
        progress.keep(scope, name, target, reached)
        tell(f"{scope}/{stream}", reached.through)
    progress.end(scope, name)
    counted = dict(reached.by_key)
    unopened = counted.pop(_UNOPENED, 0)
    position = msgspec.structs.replace(reached, by_key=counted)
    return CheckedStream(str(scope), stream, reached.through, before.through, before.at, unopened), position


_UNOPENED = "\0unopened"
