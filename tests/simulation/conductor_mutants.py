"""Planted faults of the conductor: in what schedules decide, count and make, and in what holds runs back."""

from __future__ import annotations

from tests.simulation.mutant import Change, Mutant, one_change

from antiphon.catalog.run_holds import RunHolds
from antiphon.catalog.schedules import Schedules
from antiphon.durable import runs
from antiphon.durable.runs import Runs
from antiphon.orchestration.conductor import assets, decide, trigger_states, waiting
from antiphon.services.conducting import asset_states, scheduled_orders
from antiphon.services.conducting.schedule_states import ScheduleStates
from antiphon.services.conducting.scheduled_orders import ScheduledOrders

CONDUCTOR_MUTANTS = (
    one_change("claim without the holds", "conductor", runs, "claimable", "~held_back(), ", ""),
    one_change(
        "holds read outside of the claim's transaction",
        "conductor",
        Runs,
        "claim",
        'if not self._found(candidates, {"now": self._clock.now(), "held": list(held)}):\n'
        "            return None\n"
        "        with self._database.transaction() as connection:\n"
        "            now = self._clock.now()  # A hold that began while others wrote is in force.\n"
        '            due = {"now": now, "held": list(held)}\n'
        "            if not (found := self._found(candidates, due, connection)):",
        'if not (found := self._found(candidates, {"now": self._clock.now(), "held": list(held)})):\n'
        "            return None\n"
        "        with self._database.transaction() as connection:\n"
        "            now = self._clock.now()\n"
        "            if not found:",
    ),
    one_change(
        "claim as of the moment before it waited",
        "conductor",
        Runs,
        "claim",
        "with self._database.transaction() as connection:\n            now = self._clock.now()",
        "now = self._clock.now()\n        with self._database.transaction() as connection:\n            pass",
    ),
    one_change(
        "heartbeat that never asks to yield",
        "conductor",
        Runs,
        "heartbeat",
        'return "yield" if self._first(yields, {"now": now}, connection) is not None else None',
        "return None",
    ),
    one_change(
        "yielding counts as an attempt",
        "conductor",
        Runs,
        "give_back",
        "attempts=run.attempts - 1",
        "attempts=run.attempts",
    ),
    one_change(
        "run that was exempted is asked to yield",
        "conductor",
        runs,
        "held_back",
        "and_(_runs.c.exempted_by.is_(None), exists().where(*_holding()))",
        "exists().where(*_holding())",
    ),
    one_change(
        "run that was exempted is not claimed",
        "conductor",
        runs,
        "claimable",
        "~held_back()",
        "~exists().where(*_holding())",
    ),
    one_change(
        "look for the next run that does not rest",
        "conductor",
        runs,
        "next_moments",
        "case((held_back(), over), else_=moment)",
        "moment",
    ),
    one_change("windows in place of freezes", "conductor", RunHolds, "put_windows", ' if one.kind == "window"', ""),
    one_change(
        "end of one freeze ends all", "conductor", RunHolds, "end", "scope, id=hold) & (_table.c.until > now)", "scope)"
    ),
    one_change(
        "windows of a project that is not in force",
        "conductor",
        scheduled_orders,
        "put_windows",
        "if holds or any(",
        "if holds and not any(",
    ),
    one_change(
        "count of what another counted",
        "conductor",
        Schedules,
        "advance",
        ", sequence=record.sequence)",
        ")",
    ),
    one_change("conditions count from the first order", "conductor", Schedules, "advance", '"since": at, ', ""),
    one_change(
        "order without its key",
        "conductor",
        ScheduledOrders,
        "_order",
        "state.spec, state.record.key",
        'state.spec, f"{self._store.database.clock.now().microsecond}:{state.record.key}"',
    ),
    one_change(
        "order beside a run under way", "conductor", decide, "_hindered", "if state.open_run is not None:", "if False:"
    ),
    one_change("pause that is not looked at", "conductor", decide, "_hindered", "record.paused_until > now:", "False:"),
    one_change(
        "schedule that does not settle", "conductor", decide, "_hindered", "state.ended_at + settle > now", "False"
    ),
    one_change(
        "times made up for however late", "conductor", trigger_states, "_clock", " and now - latest <= catch_up", ""
    ),
    Mutant(
        "fewer outcomes than were asked for",
        "conductor",
        tuple(
            # One has a name of its own for it, and the other calls itself.
            Change(owner, "state_of", "observed.outcomes >= trigger.count", "observed.outcomes >= 1")
            for owner in (decide, trigger_states)
        ),
    ),
    one_change(
        "part that failed is made of the same again",
        "conductor",
        assets,
        "_made",
        "record.outcome not in _OK and _same(record, current, asset.definition)",
        "False",
    ),
    one_change(
        "part noted as it was planned and not as it was ordered",
        "conductor",
        ScheduledOrders,
        "_as_ordered",
        "order = own",
        "pass",
    ),
    one_change(
        "run that failed made its part",
        "conductor",
        asset_states,
        "_settled",
        "if run.status in _SUCCEEDED",
        "if run.status in ENDED",
    ),
    one_change(
        "input that changed is taken as it was", "conductor", assets, "_made", "and version != before", "and False"
    ),
    one_change(
        "view refreshed at each look", "conductor", decide, "_by_period", "known[view] < begin", "known[view] < now"
    ),
    one_change(
        "new view that waits for the next period",
        "conductor",
        decide,
        "_by_period",
        "if not due:",
        "if len(due) < len(work.views):",
    ),
    one_change(
        "last refresh alone tells of a period",
        "conductor",
        ScheduleStates,
        "_refreshed",
        "store.runs.list(scope, MOST_ORDERS, schedule=name) if missing() else ()",
        "()",
    ),
    one_change("run said to begin in a hold", "conductor", waiting, "_free_from", "moment = hold.until", "pass"),
)
