"""Processes that move rollouts and die: ``python -m tests.chaos.rollout_child MODE FOLDER``.

``kill``: once it has said ``ready``, for each line ``POINT`` of standard input a fork moves the catalog
``FOLDER/catalog.db``, which may be another file each time, through every transition and kills itself before its
statement number POINT (a commit counts as one); the answer is the signal it died of, or ``done N`` when it got through
all its N statements. ``torn`` is ``kill`` without transactions: the fault that the checks must find.

``race``: for each line ``NAME ACT``, do one act in that catalog at once and say who won.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from antiphon.catalog.database import Database
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.core.errors import ConflictError
from antiphon.core.scope import Scope
from antiphon.governance.audit.log import AuditLog
from antiphon.releases.rollout import RolloutTransitions

SCOPE, APPLICATION, SECRET = Scope(), "desk", b"s" * 32


def transitions(database: Database) -> RolloutTransitions:
    return RolloutTransitions(
        database,
        Releases(database),
        Rollouts(database),
        audit=AuditLog(database, SECRET),
        feature_exists=lambda scope, view, version: True,
    )


def whole_way(database: Database) -> Iterator[Callable[[], Any]]:
    """Every transition there is: one release to live and back, another up to the canary and back, a third at once."""
    moves, rollouts = transitions(database), Rollouts(database)
    first, second = (
        release.id for release in reversed(Releases(database).list(SCOPE, APPLICATION)) if release.stage == "validated"
    )

    def under_way() -> str:
        active = rollouts.active(SCOPE, APPLICATION)
        assert active is not None
        return active.id

    said: dict[str, Any] = {"principal": "child", "reason": "chaos"}
    yield lambda: moves.begin(SCOPE, first, **said)
    for _ in range(3):
        yield lambda: moves.advance(SCOPE, under_way(), **said)
    yield lambda: moves.rollback(SCOPE, APPLICATION, **said)
    yield lambda: moves.begin(SCOPE, second, **said)
    yield lambda: moves.hold(SCOPE, under_way(), **said)
    yield lambda: moves.resume(SCOPE, under_way(), **said)
    yield lambda: moves.advance(SCOPE, under_way(), **said)
    yield lambda: moves.abort(SCOPE, under_way(), **said)
    yield lambda: moves.begin(SCOPE, second, **said)
    yield lambda: moves.advance(SCOPE, under_way(), **said)
    yield lambda: moves.rollback(SCOPE, APPLICATION, **said)
    yield lambda: moves.activate(SCOPE, APPLICATION, second, force=True, **said)


@contextmanager
def opened(folder: Path) -> Iterator[Database]:
    database = Database.open(f"sqlite:///{folder}/catalog.db")
    try:
        yield database
    finally:
        database.close()


def die_at(point: int, torn: bool) -> Callable[[], int]:
    """Kill this process before that statement; returns how many there were so far."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def executing(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> tuple[str, Any]:
        if not statement.startswith("SELECT"):
            step()
        # Without its transaction each statement is one of its own: what a careless implementation would do.
        return ("SELECT 1" if torn and statement == "BEGIN IMMEDIATE" else statement), parameters

    sa.event.listen(sa.Engine, "before_cursor_execute", executing, retval=True)
    sa.event.listen(sa.Engine, "commit", lambda connection: step())
    return lambda: count


def kill(folder: Path, torn: bool) -> None:
    with opened(folder) as database:
        # Once before the forks, which then have every statement compiled.
        for move in whole_way(database):
            move()
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            database.close()  # Another file is in its place since.
            seen = die_at(int(line), torn)
            for move in whole_way(database):
                move()
            print("done", seen(), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != 0:
            print(-os.waitstatus_to_exitcode(status), flush=True)


def race(folder: Path) -> None:
    for line in sys.stdin:
        name, act = line.split()
        with opened(folder / name) as database:
            moves = transitions(database)
            print("ready", flush=True)
            sys.stdin.readline()
            try:
                if act.startswith("rel_"):
                    moves.begin(SCOPE, act, principal=str(os.getpid()), reason="race")
                else:
                    moves.advance(SCOPE, act, principal=str(os.getpid()), reason="race", expected=("canary", 1))
                print("won", flush=True)
            except ConflictError as conflict:
                print("lost", conflict, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "race":
        race(Path(sys.argv[2]))
    else:
        kill(Path(sys.argv[2]), torn=sys.argv[1] == "torn")
