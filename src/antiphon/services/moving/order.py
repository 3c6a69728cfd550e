"""The order of a live move, by which one command and the processes of all hosts agree in the catalog.

Invariants: there is one order at a time; it ends by itself when its time is over, or its command has ended, and then
everything goes on as before. The transaction that decides the move requires that the order still stands and removes it,
so that a process which did not wait any longer, and the move, never both go on. From then on the order lies in the
catalog that was left, and a process that starts there with the old settings follows it. An order is sealed with the
project's secret: who may write to the catalog alone can name neither stores nor variables whose content is sent there.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.moves import FOREVER
from antiphon.core.errors import ConflictError, DeadlineExceededError
from antiphon.core.ids import keyed_hash
from antiphon.core.scope import ANY
from antiphon.operations.processes import ProcessIdentity
from antiphon.services.moving.marks import OWN, SETTINGS_AFTER
from antiphon.services.project.store import Store

_ORDER, _ANSWER = "move under way", "answer/"
_leases = schema.leases
_log = logging.getLogger("antiphon.moving")


class MoveOrder(msgspec.Struct, frozen=True):
    """A request of a live move to the processes.

    Attributes:
        id: of the order, unique. holder: the command's process; ``boot`` names this start of its machine.
        settings: text of the settings file from the switch on; ``seal`` is its keyed hash.
        places: part of the project to its place from then on.
        leaving: kinds of processes that are to end now, and to wait when they start.
    """

    id: str
    holder: str
    boot: str
    settings: str
    places: Mapping[str, str]
    seal: str = ""
    leaving: tuple[str, ...] = ()


class MoveAnswer(msgspec.Struct, frozen=True):
    """The answer of a process: why it could not go on with the new stores, if so, and whether it has left."""

    order: str
    kind: str
    problem: str = ""
    left: bool = False


_order = msgspec.json.Decoder(MoveOrder).decode
_answer = msgspec.json.Decoder(MoveAnswer).decode


class MoveOrders:
    """Repository of the order and its answers in the catalog that counts until the move is decided."""

    def __init__(self, store: Store) -> None:
        self._store, self._database = store, store.database
        self._own = ProcessIdentity.own()
        self._refused = ""

    def find(self, within: Connection | None = None) -> MoveOrder | None:
        """The order that stands."""
        row = self._database.first(sa.select(_leases).where(OWN, _leases.c.name == _ORDER), within)
        if row is None or row.until < self._database.clock.now() or self._own.sees_end_of(row.holder):
            return None
        return self._genuine(row.detail)

    def put(self, order: MoveOrder, seconds: float) -> datetime:
        """Give an order, or change one's own; it stands for so many seconds. Returns when it ends.

        Raises:
            ConflictError: another one stands.
        """
        with self._database.transaction() as connection:
            until = self._database.clock.now() + timedelta(seconds=seconds)
            present = self.find(connection)
            if present is not None and present.id != order.id:
                raise _under_way(present, self._database)
            if present is None:
                _remove(connection, answers=True)
            _write(connection, _ORDER, order.holder, until, self._sealed(order))
            self._database.ring("moves", self._store.scope)
        return until

    def withdraw(self, order: MoveOrder) -> None:
        """End an order that was not decided: every process goes on with the stores that it had."""
        with self._database.transaction() as connection:
            present = self.find(connection)
            if present is not None and present.id == order.id:
                _remove(connection)

    def answer(self, process: ProcessIdentity, answer: MoveAnswer) -> None:
        """Write a process's answer in the place of an earlier one."""
        with self._database.transaction() as connection:
            _write(connection, f"{_ANSWER}{process}", str(process), FOREVER, msgspec.json.encode(answer).decode())

    def answers(self, order: MoveOrder) -> dict[str, MoveAnswer]:
        """Process to its answer to this order."""
        rows = self._database.rows(sa.select(_leases).where(OWN, _leases.c.name.startswith(_ANSWER)))
        found = {row.holder: _answer(row.detail) for row in rows}
        return {process: one for process, one in found.items() if one.order == order.id}

    def require_in_force(self, order: MoveOrder, within: Connection | None = None) -> None:
        """Refuse to go on with a move that no process waits for any more.

        Raises:
            DeadlineExceededError: the order's time is over.
        """
        present = self.find(within)
        if present is None or present.id != order.id:
            raise DeadlineExceededError(
                "The freeze lasted longer than it may, and everything goes on with the stores that it had.",
                where="antiphon migrate --live",
                next_step="Run it again: what was copied is not copied again; or allow more with --freeze-at-most.",
            )

    def decide(self, connection: Connection, order: MoveOrder | None) -> None:
        """End the order and leave the new settings, in the transaction that moves the project; raises as
        :meth:`require_in_force`.

        Args:
            order: ``None`` for a project that is stopped, whose hosts are given the new settings by hand.

        Raises:
            ConflictError: it is stopped for another command, which moves it live.
        """
        if order is not None:
            self.require_in_force(order, connection)
        elif (present := self.find(connection)) is not None:
            raise _under_way(present, self._database)
        _remove(connection, answers=True)
        connection.execute(sa.delete(_leases).where(OWN, _leases.c.name == SETTINGS_AFTER))
        if order is not None:
            _write(connection, SETTINGS_AFTER, order.holder, FOREVER, self._sealed(order))

    def settings_after(self) -> str | None:
        """The text of the settings that name the stores to which a live move has brought the project from here."""
        detail: str | None = self._database.scalar(
            sa.select(_leases.c.detail).where(OWN, _leases.c.name == SETTINGS_AFTER)
        )
        order = None if detail is None else self._genuine(detail)
        return None if order is None else order.settings

    def _genuine(self, detail: str) -> MoveOrder | None:
        """The order that a row holds, if one who has the project's secret wrote it."""
        try:
            order = _order(detail)
        except msgspec.MsgspecError:  # Another version wrote it.
            return None
        if hmac.compare_digest(order.seal, self._seal(order.settings)):
            return order
        if order.id != self._refused:
            self._refused = order.id
            _log.warning("The order of a move is not sealed with this project's secret, and is not followed.")
        return None

    def _sealed(self, order: MoveOrder) -> str:
        return msgspec.json.encode(msgspec.structs.replace(order, seal=self._seal(order.settings))).decode()

    def _seal(self, settings: str) -> str:
        return keyed_hash(self._store.secret("server"), f"move {settings}").hex()


def _under_way(present: MoveOrder, database: Database) -> ConflictError:
    return ConflictError(
        f"Another move is under way ({present.holder}).",
        where=database.backend.place,
        next_step="Wait for its end; one that was killed is forgotten when its freeze would end.",
    )


def _write(connection: Connection, name: str, holder: str, until: datetime, detail: str) -> None:
    connection.execute(sa.delete(_leases).where(OWN, _leases.c.name == name))
    row = {"tenant": ANY, "environment": ANY, "name": name, "holder": holder, "until": until, "detail": detail}
    connection.execute(sa.insert(_leases).values(row | {"epoch": 1}))


def _remove(connection: Connection, *, answers: bool = False) -> None:
    named = _leases.c.name == _ORDER
    if answers:
        named |= _leases.c.name.startswith(_ANSWER)
    connection.execute(sa.delete(_leases).where(OWN, named))
