"""The processes that the log's kill harness kills: publishers, a consumer and a refresher of one stream on a NATS
server, at once.

A zygote imports everything, opens nothing, and forks a life for every line it is told; a life's name is the first word
of what it says. A publisher says ``acked BATCH`` once the log has said so, and goes on to its next batch; a batch that
had no answer is appended again until it has one. ``break=NAME`` switches one defence off.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.harness import feature_chaos_broken, feature_chaos_child
from tests.chaos.harness.feature_chaos_project import SHOPS, STREAM, base_of, batch, moments

from antiphon.catalog.features.events import Event
from antiphon.core.child_process import end_with_parent
from antiphon.core.errors import SetupError, UnavailableError
from antiphon.features.online.lookup import FeatureReader
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store

BROKEN = ("offset-first", "acknowledged-unheard", "subject-drawn")
"""What can be switched off: the consumer's offset in the transaction of its events; the wait for the server's
acknowledgement; the event's id in its subject, by which the server refuses a second one."""

_SLICE = 7
_PAUSE = 0.01
_AGAIN = 0.25
"""Share of a publisher's turns in which an older batch is sent once more."""


class LogLife:
    """One process's life on the project and its log."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order, self._name = order, str(order["name"])
        self._seed, self._base = int(order["seed"]), base_of(order["base"])
        self._chance = random.Random(f"{self._seed} {self._name} {order['life']}")
        self._wait = threading.Event().wait
        self.store = Store.open(Path(order["root"]))
        self.platform = FeaturePlatform(self.store)
        _switch_off(order.get("break"), self.platform, self.store)

    def say(self, line: str) -> None:
        """One whole line, at once."""
        os.write(1, f"{self._name} {line}\n".encode())

    def publish(self) -> None:
        """Batch after batch, now and then an older one again, until killed."""
        number, step = int(self._order["batch"]), int(self._order["step"])
        while True:
            self._until_answered(partial(self._append, number))
            self.say(f"acked {number}")
            if self._chance.random() < _AGAIN:
                again = self._chance.randrange(number % step, number + 1, step)
                self._until_answered(partial(self._append, again))
            number += step
            if self._order.get("break") is None:  # a gap that is looked for is looked for without rest
                self._wait(_PAUSE / 2)

    def consume(self) -> None:
        """What comes, until killed."""
        while True:
            if self._until_answered(lambda: self.platform.consume(_SLICE)):
                self.say("moved")
            else:
                self._wait(_PAUSE / 4)

    def refresh(self) -> None:
        """Materialize, judge and publish, again and again, until killed."""
        life = feature_chaos_child.Life(Path(self._order["root"]), self._order)
        turn = 0
        while True:
            life._refresh(f"{self._order['life']}, turn {turn}")
            self.say("published")
            turn += 1

    def settle(self) -> None:
        """Let what is open come to its end; then say what is served and how far every view is."""
        life = feature_chaos_child.Life(Path(self._order["root"]), self._order)
        runs = asyncio.run(life._run_open())
        life.close()
        for number in self._order["batches"]:
            self._until_answered(partial(self._append, number))
        while self._until_answered(lambda: self.platform.consume(1_000)):
            pass
        behind = {
            view.view: [view.consumed, stream.end]
            for stream in self.platform.consumer.status(datetime.now(UTC))
            for view in stream.views
        }
        self.say("settled " + json.dumps({"readings": self._served(), "consumed": behind, "runs": runs}))

    def _append(self, number: int) -> int:
        events = [
            Event(row["order_id"], row["ordered"], row["known"], {"shop": row["shop"], "amount": row["amount"]})
            for row in batch(self._seed, self._base, number)
        ]
        return self.store.events.append(self.store.scope, STREAM, events)

    def _until_answered(self, ask: Callable[[], int]) -> int:
        """Again while the server is away or starts; anything else ends the life, which is a violation."""
        while True:
            try:
                return ask()
            except (UnavailableError, SetupError):
                self._wait(_PAUSE)

    def _served(self) -> list[dict[str, Any]]:
        publication = self.store.publications.current(self.store.scope)
        assert publication is not None
        known = self.platform.views()
        views = {known[key].name: known[key].definition_version for key in publication.snapshots}
        reader = FeatureReader(
            self.store.scope,
            publications=self.store.publications,
            online=self.platform.online,
            clock=self.store.database.clock,
            overlay=self.platform.overlay,
            lease=0.0,
        )
        return [_said(reader, views, as_of) for as_of in moments(self._base)]

    def close(self) -> None:
        """Close what was opened."""
        self.platform.close()
        self.store.close()


def _said(reader: FeatureReader, views: dict[str, str], as_of: datetime) -> dict[str, Any]:
    read = reader.read_many(views, [{"shop": shop} for shop in SHOPS], as_of)
    values = {
        shop: {name: one.value for name, one in vector.values.items()} for shop, vector in zip(SHOPS, read, strict=True)
    }
    return {
        "publication": read[0].publication, "read": read[0].publication, "as_of": as_of.isoformat(), "values": values
    }  # fmt: skip


def _switch_off(name: str | None, platform: FeaturePlatform, store: Store) -> None:
    log: Any = store.events
    if name == "offset-first":
        feature_chaos_broken.switch_off(name, platform)
    elif name == "acknowledged-unheard":
        log._server._publish = _unheard(log._server)
    elif name == "subject-drawn":
        log._place = lambda scope, stream, event_id: random.randbytes(16).hex()
    elif name is not None:
        raise ValueError(f"There is no defence {name!r}; there are {', '.join(BROKEN)}.")


def _unheard(server: Any) -> Callable[..., Any]:
    async def publish(stream: str, messages: list[tuple[str, bytes]]) -> int:
        client = await server._connected()
        for subject, content in messages:
            await client.publish(subject, content)
        return 0

    return publish


def live(order: dict[str, Any]) -> None:
    """One life, as it is ordered."""
    if order["do"] == "prepare":
        for what in ({"do": "apply"}, {"do": "work", "operations": ["refresh"]}):
            feature_chaos_child.live({**order, **what})
        return
    life = LogLife(order)
    try:
        getattr(life, order["do"])()
    finally:
        life.close()


def main() -> None:
    """The zygote: a JSON order a line. A life is begun, answered by ``NAME pid N``; or, once it was killed or has
    come to its end, reaped, answered by ``NAME ended CODE``."""
    import duckdb
    import lmdb
    import nats.js
    import pyarrow.parquet

    assert all((duckdb, lmdb, nats, pyarrow))
    running: dict[str, int] = {}
    zygote = os.getpid()
    os.write(1, b"zygote ready\n")
    for line in sys.stdin:
        order = json.loads(line)
        name = order["name"]
        if order["do"] == "reap":
            _, status = os.waitpid(running.pop(name), 0)
            os.write(1, f"{name} ended {os.waitstatus_to_exitcode(status)}\n".encode())
            continue
        pid = os.fork()
        if pid == 0:
            end_with_parent(zygote)
            code = 1
            with suppress(BaseException):
                try:
                    live(order)
                    code = 0
                except BaseException as error:
                    traceback.print_exc()
                    os.write(1, f"{name} failed {type(error).__name__}: {error}\n".replace("\n", " ").encode() + b"\n")
            os._exit(code)
        running[name] = pid
        os.write(1, f"{name} pid {pid}\n".encode())


if __name__ == "__main__":
    main()
