"""Defences that hold among many processes, switched off one by one for the harness to find.

Python imports this module in every process that has its folder in ``PYTHONPATH``; ``CHAOS_BROKEN`` names what is taken
away. Each gap is widened to be hit. ``CHAOS_CLOCK`` is not one of them: it sets the clock of a host apart by so many
seconds.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

_GAP = 0.3
"""Seconds between two steps that belong together."""


def _early_acknowledgement() -> None:
    """An answer is acknowledged before its receipt is committed."""
    from antiphon.catalog.group_commit import GroupCommit

    async def submit(self: Any, effect: Callable[[Any], Any]) -> Any:
        threading.Timer(_GAP, lambda: self.enqueue(effect)).start()

    vars_of: Any = GroupCommit
    vars_of.submit = submit


def _unfenced() -> None:
    """A worker writes steps, rows and ends of what it lost to another one."""
    from antiphon.catalog import schema
    from antiphon.catalog.batch.jobs import Jobs
    from antiphon.durable import runs

    module: Any = runs
    module.holds = lambda run: schema.owned(schema.runs, run.scope, id=run.id)
    jobs: Any = Jobs
    jobs._require_epoch = lambda self, connection, scope, job, epoch: None


def _repeated() -> None:
    """Events that are sent again, because nobody had answered, are taken again."""
    from antiphon.catalog.features.events import EventLog
    from antiphon.core.ids import new_id

    log: Any = EventLog
    append, row = log.append, log._row

    def appended(self: Any, *given: Any, **more: Any) -> Any:
        end = append(self, *given, **more)
        time.sleep(_GAP)
        return end

    def salted(self: Any, scope: Any, stream: str, event: Any, index: str) -> Any:
        return row(self, scope, stream, event, f"{index}-{new_id('again')}")

    log.append, log._row = appended, salted
    log._unknown = lambda self, connection, scope, stream, rows: list(rows.values())


BROKEN = {"early-acknowledgement": _early_acknowledgement, "unfenced": _unfenced, "repeated": _repeated}


def _set_clock(seconds: float) -> None:
    from datetime import timedelta

    from antiphon.core.clock import SystemClock

    clock: Any = SystemClock
    now, apart = clock.now, timedelta(seconds=seconds)
    clock.now = lambda self: now(self) + apart


if (_apart := os.environ.get("CHAOS_CLOCK")) is not None:
    _set_clock(float(_apart))
if (_name := os.environ.get("CHAOS_BROKEN")) is not None:
    BROKEN[_name]()
