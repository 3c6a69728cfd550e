"""Processes in a live move: they say whether they could follow it, leave when they are to, and open what counts then.

Invariant: a process that leaves has written everything before it says so; one that starts waits while its kind is to
be away, and goes on with the stores that count when the order ends, however it ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal

from antiphon.catalog.database import Database
from antiphon.catalog.doorbell import Wakeup
from antiphon.catalog.sqlite_file import SqliteFile
from antiphon.core import settings
from antiphon.core.codec import PlainCodec
from antiphon.core.errors import AntiphonError, InvalidInputError, ProjectMovedError, SetupError, UnavailableError
from antiphon.core.settings import FILE_NAME
from antiphon.core.supervision import Supervision, has_begun_again
from antiphon.engine.api.client import EngineClient
from antiphon.engine.routing.routed_engine import RoutedEngine
from antiphon.operations.processes import ProcessIdentity
from antiphon.services.moving import settings_file
from antiphon.services.moving.catalog import end_move
from antiphon.services.moving.marks import require_present, store_places
from antiphon.services.moving.order import MoveAnswer, MoveOrder, MoveOrders
from antiphon.services.moving.sides import Side, places_of
from antiphon.services.project.store import Store

Kind = Literal["worker", "gateway", "engine"]

LOOK_SECONDS = 3.0
"""Interval at which a process looks for an order."""

_NEAR_SECONDS = 0.1
"""The same while there is an order: the sooner all leave, the shorter is the freeze."""

_WAIT_SECONDS = 0.05
"""Interval at which one that starts looks whether it may go on."""

_AWAY_SECONDS = 0.5
"""The same while the catalog is away."""

_ENGINE_SECONDS = 30.0
_ATTEMPTS = 3

_log = logging.getLogger("antiphon.moving")


class MoveWatch:
    """Watches for the order of a live move in a process that serves.

    Args:
        leave: has the process finish what it is doing and end, where the event that ends the watch does not; called in
            the event loop.
        wakeup: rings for an order.
    """

    def __init__(
        self,
        store: Store,
        kind: Kind,
        leave: Callable[[], object] | None = None,
        *,
        wakeup: Wakeup | None = None,
    ) -> None:
        self._store = store
        self._kind = kind
        self._leave = leave
        self._wakeup = wakeup or Wakeup()
        self._orders = MoveOrders(store)
        self._process = ProcessIdentity.own()
        self._answered: str | None = None
        self._near = False
        self.left = False
        """True when the process ends because of a move."""

    async def run_until(self, stop: asyncio.Event) -> None:
        """Answer orders until ``stop``; set it when the process is to leave."""
        with self._wakeup as wakeup:
            while not stop.is_set():
                try:
                    self.left = await asyncio.to_thread(self._look)
                except AntiphonError as error:
                    _log.warning("Orders of moves cannot be read: %s", error)
                if self.left:
                    _log.info("The project is being moved; this process leaves and begins again.")
                    (self._leave or stop.set)()
                    return
                pause = min(_NEAR_SECONDS, LOOK_SECONDS) if self._near else wakeup.rested(LOOK_SECONDS)
                await wakeup.wait_until(stop, pause, found=False)

    def finish(self, supervision: Supervision) -> None:
        """Say that this process has left, and begin it again; the last call of a process, when all else is closed."""
        if not self.left:
            return
        with suppress(AntiphonError):  # The order has ended meanwhile: nothing waits for it.
            self._say(MoveAnswer(self._answered or "", self._kind, left=True))
        self._store.database.close()
        supervision.begin_again()

    def _look(self) -> bool:
        order = self._orders.find()
        self._near = order is not None
        if order is not None and order.id != self._answered:
            problem = ""
            for _ in range(_ATTEMPTS):  # On a crowded machine a server may not answer in time, once.
                if not (problem := problem_with(self._store, order)):
                    break
            self._say(MoveAnswer(order.id, self._kind, problem))
            self._answered = order.id
        try:
            self._store.database.require_unmoved()
        except ProjectMovedError:  # It hung, or was cut off, while the others were moved.
            return True
        return order is not None and self._kind in order.leaving

    def _say(self, answer: MoveAnswer) -> None:
        self._orders.answer(self._process, answer)


def open_following(root: Path, kind: Kind) -> Store:
    """Open a project's stores for a process that serves; raises as :meth:`.Store.open`.

    It waits while processes of its kind are to be away, and puts the settings of a live move that has ended in the
    place of the old ones.
    """
    waited, away = has_begun_again(), False
    while True:
        try:
            with closing(Store.unprotected(root, moved=True)) as store:
                orders = MoveOrders(store)
                while (order := orders.find()) is not None and kind in order.leaving:
                    if not waited:
                        _log.info("The project is being moved; this process waits for the end of it.")
                    waited = True
                    time.sleep(_WAIT_SECONDS)
                followed = _followed(store)
            if not followed:
                opened = Store.open(root)
                opened.waited = waited
                return opened
            waited = True  # Others may be beginning again, too.
        except UnavailableError as error:
            if not waited:
                raise
            if not away:  # It was cut off, say, and perhaps nothing else starts it again.
                _log.warning("%s This process goes on waiting.", error)
            away = True
            time.sleep(_AWAY_SECONDS)


def problem_with(store: Store, order: MoveOrder) -> str:
    """The reason for which this process could not go on with the stores of an order; empty when it could."""
    root = store.paths.root
    try:
        after = settings.parse(order.settings.encode(), root / FILE_NAME)
        settings_file.require_stores_alone(settings.load(root)[0], after)
        there = Store(after, store.paths)
        if isinstance(there.backend, SqliteFile):  # It is made by the move, not by a look at it.
            there.database = Database(there.backend, codec=PlainCodec(), clock=None)
        with closing(Side(there)) as side:
            _require_places(places_of(store), side.places, order)
            side.features.describe()
    except AntiphonError as error:
        return str(error)
    if not os.access(root / FILE_NAME, os.W_OK) or not os.access(root, os.W_OK):
        return f"{root / FILE_NAME} cannot be written, and must name the new stores."
    return ""


async def engines_back(main: EngineClient | RoutedEngine, standbys: Iterable[EngineClient | RoutedEngine]) -> None:
    """Wait, but not for ever, until every engine is there that may have left in the same move.

    A standby at an address of its own is not of this project, and the server behind one may be away for reasons of its
    own: its process says so. Neither is waited for.
    """
    leaving = [one for one in standbys if isinstance(one, RoutedEngine) or one.on_this_machine]
    with suppress(TimeoutError):
        async with asyncio.timeout(_ENGINE_SECONDS):
            await asyncio.gather(*map(_engine_back, [main, *leaving]))


async def _engine_back(engine: EngineClient | RoutedEngine) -> None:
    while not engine.connected:
        with suppress(AntiphonError):
            await engine.describe()
            return
        await asyncio.sleep(_WAIT_SECONDS)


def _require_places(here: Mapping[str, str], there: Mapping[str, str], order: MoveOrder) -> None:
    for part, place in there.items():
        if place != order.places[part]:
            raise InvalidInputError(
                f"The {part} would be at {place} here, and is moved to {order.places[part]}.",
                where="environment",
                next_step="Remove the variables ANTIPHON_SECTION__FIELD that name stores, and start the process again.",
            )
        folder = place == settings_file.EMBEDDED or "://" not in place
        if folder and place != here[part] and ProcessIdentity.own().boot != order.boot:
            raise InvalidInputError(
                f"The {part} is moved to a folder of another host.",
                where=part,
                next_step="Stop the processes of this host before the move.",
            )


def _followed(store: Store) -> bool:
    """Replace the settings by those of a live move that has ended here; tell whether there was one.

    Raises:
        SetupError: the project is elsewhere, and what says so is no live move, or not for these settings.
    """
    try:
        require_present(store.database, store_places(store.settings))
        return False
    except SetupError as refused:
        text, root = MoveOrders(store).settings_after(), store.paths.root
        after = None if text is None else settings.parse(text.encode(), root / FILE_NAME)
        if text is None or after is None or after == store.settings:
            raise
        try:
            settings_file.require_stores_alone(store.settings, after)
        except InvalidInputError as error:
            raise SetupError(
                f"{refused.what} {error.what}", where=refused.where, next_step=refused.next_step
            ) from error
    with closing(Store(after, store.paths)) as there:
        end_move(store.backend.place, there.database)
    settings_file.replace(root, text)
    _log.info("The project was moved: %s names its stores now.", FILE_NAME)
    return True
