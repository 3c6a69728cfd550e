"""Moves a project that runs: ``move_live`` is the whole of it, from top to bottom.

The processes are asked whether they could go on with the new stores, what there is is copied while they serve, the
workers leave, then the gateways, then the engines that have the catalog open; what was written since is copied and
compared, and one transaction switches (``project.py``). Each process begins again by itself and waits for that
(``following.py``): a gateway's socket goes on listening, so that requests wait and none is refused.

Invariant: until that transaction everything is as before, and goes on as before when this command gives up, is killed,
or takes longer than it may; after it everything goes on with the new stores, whether this command lives or not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from antiphon.catalog.database import Database
from antiphon.core.errors import AntiphonError, ConflictError, DeadlineExceededError
from antiphon.core.ids import new_id
from antiphon.operations.processes import ProcessIdentity, is_running, read_records
from antiphon.services.moving.catalog import living_leases
from antiphon.services.moving.following import LOOK_SECONDS, Kind
from antiphon.services.moving.order import MoveAnswer, MoveOrder, MoveOrders
from antiphon.services.moving.project import ProjectMove, Tell, ahead_pass, ended, last_pass, plan, remembered_pass
from antiphon.services.moving.sides import Side, moving_parts, sides

FREEZE_SECONDS = 10.0
"""The longest freeze, unless another is asked for."""

ANSWER_SECONDS = 75.0
"""Seconds for which an answer is waited for. A process looks for an order every 3 s, when it has a processor; one
that was killed on another host, or is cut off, is forgotten within this time: no lease lasts longer than a minute."""

PARK_SECONDS = 60.0
"""Seconds that workers may take to park their runs; online requests are answered meanwhile."""

RETURN_SECONDS = 60.0
"""Seconds for which the processes' return is waited for after the switch."""

PROCESS_SECONDS = 2.5
"""About how long gateways take to end and to begin again, beside the last pass."""

_MOST_PASSES = 5
_WORTH = 0.7
"""Another pass ahead is made while the last one took less than this share of the one before."""
_SHORT = 0.05
"""Of the freeze: a pass that takes less of it need not be shorter."""
_POLL = 0.05
_PREFIXES: dict[str, Kind] = {"gateway": "gateway", "worker": "worker", "engine": "engine", "front": "engine"}


def move_live(
    root: Path,
    text: str,
    tell: Tell = lambda *_: None,
    *,
    leave_lost: bool = False,
    freeze_at_most: float = FREEZE_SECONDS,
) -> ProjectMove:
    """Move the project in ``root``, which runs, to the stores that a settings file of this text names.

    Args:
        freeze_at_most: seconds after which it gives up, and everything goes on with the stores that it had.

    Raises:
        As :func:`.project.move`; ConflictError: a process could not go on with the new stores, or does not answer.
        DeadlineExceededError: processes did not leave in time, or the rest cannot be moved in so short a freeze.
    """
    with sides(root, text) as (source, target):
        moving_parts(source, target)
        if ended(root, text, source, target):
            return ProjectMove()
        live = _LiveMove(source, target, text, tell)
        with live.ordered():
            live.require_ready()
        passes = live.copy_ahead(freeze_at_most)
        with live.ordered():
            live.require_ready()
            serving = live.serving()
            live.have_leave(("worker",), PARK_SECONDS)
            live.hold(PARK_SECONDS)
            passes.append(live.pass_ahead())
            began = time.monotonic()
            live.have_leave(("worker", "gateway"), freeze_at_most)
            live.have_leave(("worker", "gateway", "engine"), freeze_at_most - (time.monotonic() - began))
            moved = last_pass(root, text, source, target, live.tell, leave_lost=leave_lost, order=live.order)
        frozen, processes, missing = live.returned(began, serving)
    return msgspec.structs.replace(
        moved,
        frozen_seconds=frozen,
        expected_seconds=passes[-1] + PROCESS_SECONDS,
        processes=processes,
        missing=missing,
        passes=tuple(passes),
    )


def plan_live(root: Path, text: str) -> ProjectMove:
    """Tell what a live move would write and how long its freeze would be, and ask the processes whether they could
    follow; nothing is copied. Raises as :func:`move_live`, for what can be seen before."""
    planned = plan(root, text)
    with sides(root, text, dry=True) as (source, target):
        live = _LiveMove(source, target, text, lambda *_: None)
        with live.ordered():
            processes = live.require_ready()
        seconds = remembered_pass(source)
    expected = None if seconds is None else seconds + PROCESS_SECONDS
    return msgspec.structs.replace(planned, processes=processes, expected_seconds=expected)


class _LiveMove:
    """One command's move, with the order that it gives."""

    def __init__(self, source: Side, target: Side, text: str, tell: Tell) -> None:
        own = ProcessIdentity.own()
        self._source, self._target, self._tell = source, target, tell
        self._own = own
        self._database = source.store.database
        self._orders = MoveOrders(source.store)
        self.order = MoveOrder("", str(own), own.boot, text, target.places)
        self._leaving = False

    @contextmanager
    def ordered(self) -> Iterator[None]:
        """Have an order in force that has no process leave yet; it is withdrawn at the end unless it was decided."""
        self._leaving = False
        self.order = msgspec.structs.replace(self.order, id=new_id("move"))  # Which each process answers anew.
        self._put((), 2 * ANSWER_SECONDS)
        try:
            yield
        finally:
            with suppress(AntiphonError):  # It ends by itself.
                self._orders.withdraw(self.order)

    def tell(self, what: str, done: int, total: int) -> None:
        """Pass progress on, and end the pass when the freeze has lasted too long."""
        self._tell(what, done, total)
        if self._leaving and self._until < self._database.clock.now():
            self._orders.require_in_force(self.order)

    def require_ready(self) -> tuple[str, ...]:
        """The processes that would follow, by kind, host and pid.

        Raises:
            ConflictError: one could not, or does not answer.
        """
        began = time.monotonic()
        while True:
            answers, living = self._orders.answers(self.order), _living(self._database) | self._recorded()
            if problems := {one: answer.problem for one, answer in answers.items() if answer.problem}:
                process, problem = next(iter(sorted(problems.items())))
                raise ConflictError(
                    f"{_shown(answers[process].kind, process)} could not go on with the new stores: {problem}",
                    where="antiphon migrate --live",
                    next_step="Mend that, and start the process again if its environment was to change; or stop it.",
                )
            silent = sorted(_shown(kind, process) for process, kind in living.items() if process not in answers)
            waited = time.monotonic() - began
            if not silent and waited > 1.5 * LOOK_SECONDS:  # Some that hold no lease may be about to answer.
                return tuple(sorted(_shown(answer.kind, process) for process, answer in answers.items()))
            if waited > ANSWER_SECONDS:
                raise ConflictError(
                    f"Processes of the project do not answer: {', '.join(silent)}.",
                    where="antiphon migrate --live",
                    next_step="Stop them. One that was killed on another host is forgotten within a minute; one of an "
                    "earlier version is replaced by `antiphon restart`.",
                )
            time.sleep(_POLL)

    def copy_ahead(self, freeze_at_most: float) -> list[float]:
        """Copy while everything serves, until another pass would not be much shorter; seconds of each.

        Raises:
            DeadlineExceededError: a pass takes longer than the freeze may.
        """
        passes = [self.pass_ahead()]
        while len(passes) < _MOST_PASSES and passes[-1] > _SHORT * freeze_at_most:
            passes.append(self.pass_ahead())
            if passes[-1] > _WORTH * passes[-2]:
                break
        if passes[-1] > freeze_at_most:
            raise DeadlineExceededError(
                f"What is written while the project runs takes {passes[-1]:.1f} s to copy and compare, and the freeze "
                f"may last {freeze_at_most:g} s.",
                where="antiphon migrate --live",
                next_step="Nothing was stopped. Choose a quieter time, or allow more with --freeze-at-most.",
            )
        return passes

    def pass_ahead(self) -> float:
        """One pass while others serve; its seconds."""
        return ahead_pass(self._source, self._target, self.tell).passes[0]

    def have_leave(self, kinds: tuple[Kind, ...], seconds: float) -> None:
        """Have processes of these kinds end, and wait for it.

        Raises:
            DeadlineExceededError: some do not in time.
        """
        self._tell(f"{kinds[-1]}s leave", 0, 1)
        self._put(kinds, seconds)
        self._leaving = True
        while left := self._staying(kinds):
            if self._database.clock.now() >= self._until:
                raise DeadlineExceededError(
                    f"{', '.join(left)} did not end within {seconds:.0f} s, and everything goes on with the stores "
                    "that it had.",
                    where="antiphon migrate --live",
                    next_step="Run it again when less is under way, or stop what does not end.",
                )
            time.sleep(_POLL)
        self._tell(f"{kinds[-1]}s leave", 1, 1)

    def hold(self, seconds: float) -> None:
        """Have those that are away stay away for so long from now."""
        if self._leaving:
            self._orders.require_in_force(self.order)
        self._until = self._orders.put(self.order, seconds)

    def serving(self) -> Counter[Kind]:
        """Kind to how many processes hold a lease."""
        return Counter(_living(self._database).values())

    def returned(self, began: float, left: Counter[Kind]) -> tuple[float, tuple[str, ...], tuple[str, ...]]:
        """Wait for as many processes in the new stores; the seconds until the first gateway served, those that are
        back, and how many of a kind lack."""
        frozen = time.monotonic() - began
        self._tell("processes are back", 0, 1)
        while True:
            back, waited = _living(self._target.store.database), time.monotonic() - began
            kinds = Counter(back.values())
            if left["gateway"] and not kinds["gateway"]:
                frozen = waited
            lacking = left - kinds
            if not lacking or waited > RETURN_SECONDS:
                break
            time.sleep(_POLL)
        self._tell("processes are back", 1, 1)
        processes = sorted(_shown(kind, process) for process, kind in back.items())
        return frozen, tuple(processes), tuple(f"{number} of {left[kind]} {kind}s" for kind, number in lacking.items())

    def _put(self, leaving: tuple[Kind, ...], seconds: float) -> None:
        self.order = msgspec.structs.replace(self.order, leaving=leaving)
        self.hold(seconds)

    def _recorded(self) -> dict[str, Kind]:
        """Gateways and workers of this host's supervisor to their kind, also those that hold no lease at the moment."""
        found: dict[str, Kind] = {}
        for record in read_records(self._source.store.paths.run):
            kind = _PREFIXES.get(record.name.partition("-")[0])
            if kind in ("gateway", "worker") and is_running(record):
                process = msgspec.structs.replace(self._own, pid=record.pid, started_ticks=record.started_ticks)
                found[str(process)] = kind
        return found

    def _staying(self, kinds: tuple[Kind, ...]) -> list[str]:
        """Processes of these kinds that have not said that they have left, and are not known to have ended."""
        answers: dict[str, MoveAnswer] = self._orders.answers(self.order)
        staying = {one: answer.kind for one, answer in answers.items() if not answer.left}
        staying |= _living(self._database)
        return sorted(
            _shown(kind, process)
            for process, kind in staying.items()
            if kind in kinds and not self._own.sees_end_of(process)
        )


def _living(database: Database) -> dict[str, Kind]:
    """Process that holds a lease to its kind."""
    found: dict[str, Kind] = {}
    for name, holder in living_leases(database):
        kind = _PREFIXES.get(name.partition("/")[0])
        if kind is not None or holder not in found:
            found[holder] = kind or "worker"  # Which has leases of duties and of partitions of streams.
    return found


def _shown(kind: str, process: str) -> str:
    """``gateway 123 on HOST``."""
    parts = process.split("/")
    return f"{kind} {parts[-2] if len(parts) > 2 else '?'} on {parts[0]}"
