"""Triggers as they stand: whether what was observed meets one, and what it waits for otherwise."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import ceil

import msgspec

from antiphon.core.clock import parse_duration, to_the_minute
from antiphon.definitions.cron import CronTime
from antiphon.definitions.triggers import (
    AllOf,
    AnyOf,
    ExpectedRequests,
    ForgettingLimit,
    Interval,
    NewDrift,
    NewOutcomes,
    NewPublication,
    NewRequests,
    NewStaleness,
    Trigger,
)
from antiphon.orchestration.conductor.forecast import QUARTER, LoadForecast
from antiphon.orchestration.conductor.state import Observation


class TriggerState(msgspec.Struct, frozen=True):
    """A trigger as it stands.

    Attributes:
        sentence: what met it, or what it waits for.
        earliest: when a time meets it that does not yet; ``None`` where only events do.
    """

    met: bool
    sentence: str
    earliest: datetime | None = None


def state_of(
    trigger: Trigger, now: datetime, since: datetime, observed: Observation, catch_up: timedelta
) -> TriggerState:
    """Holds a trigger against what happened since a moment.

    Args:
        catch_up: a time of a clock that came longer ago is not made up for.
    """
    match trigger:
        case Interval():
            at = since + parse_duration(trigger.every)
            if at <= now:
                return TriggerState(True, f"{trigger.every} have passed since {to_the_minute(since)}")
            return TriggerState(False, f"{trigger.every} pass at {to_the_minute(at)}", at)
        case CronTime():
            return _clock(trigger, now, since, catch_up)
        case NewOutcomes():
            met = observed.outcomes >= trigger.count
            return TriggerState(
                met, f"{observed.outcomes} of {trigger.count} new outcomes since {to_the_minute(since)}"
            )
        case NewRequests():
            count, kind = observed.requests, "new requests"
            if trigger.misses:
                count, kind = observed.misses, "new requests without a stored answer"
            return TriggerState(
                count >= trigger.count, f"{count} of {trigger.count} {kind} since {to_the_minute(since)}"
            )
        case ExpectedRequests():
            return _expected(trigger, now, since, observed.load)
        case NewDrift():
            named = [one for one in observed.drifted if not trigger.variables or one in trigger.variables]
            if named:
                return TriggerState(True, f"{', '.join(named)} drifted since {to_the_minute(since)}")
            return TriggerState(
                False, f"no drift of {' or '.join(trigger.variables) or 'anything'} since {to_the_minute(since)}"
            )
        case NewPublication():
            new = [view for view in trigger.views if view in observed.published]
            if new:
                return TriggerState(True, f"{', '.join(new)} was published since {to_the_minute(since)}")
            return TriggerState(
                False, f"no snapshot of {' or '.join(trigger.views)} was published since {to_the_minute(since)}"
            )
        case ForgettingLimit():
            measured = observed.forgotten
            if measured is None:
                return TriggerState(False, f"no training measured what it forgot since {to_the_minute(since)}")
            words = "more" if measured.value > trigger.bound else "not more"
            return TriggerState(
                measured.value > trigger.bound,
                f"the training {measured.run} forgot {measured}, {words} than {trigger.bound:g}",
            )
        case NewStaleness():
            work = observed.asset
            if work is None:
                return TriggerState(False, "it makes no asset")
            return TriggerState(work.ready is not None, work.sentence, work.earliest)
        case AnyOf():
            parts = [state_of(one, now, since, observed, catch_up) for one in trigger.triggers]
            for part in parts:
                if part.met:
                    return part
            times = [part.earliest for part in parts if part.earliest is not None]
            return TriggerState(False, "; or ".join(part.sentence for part in parts), min(times, default=None))
        case AllOf():
            parts = [state_of(one, now, since, observed, catch_up) for one in trigger.triggers]
            open_parts = [part for part in parts if not part.met]
            if not open_parts:
                return TriggerState(True, ", and ".join(part.sentence for part in parts))
            times = [part.earliest for part in open_parts if part.earliest is not None]
            known = max(times) if len(times) == len(open_parts) else None
            return TriggerState(False, ", and ".join(part.sentence for part in open_parts), known)


def _expected(trigger: ExpectedRequests, now: datetime, since: datetime, load: LoadForecast | None) -> TriggerState:
    again = since + parse_duration(trigger.within)
    if again > now:
        last = to_the_minute(since)
        return TriggerState(
            False, f"what is expected counts from {to_the_minute(again)} on, {trigger.within} after {last}", again
        )
    if load is None:
        return TriggerState(False, "nothing is expected before there was a day of requests")
    quarters = ceil(parse_duration(trigger.within) / QUARTER)
    found, first = load.ahead(quarters), load.first_with(trigger.count, quarters)
    sentence = f"{found:.0f} of {trigger.count} requests are expected within {trigger.within}"
    met = found >= trigger.count
    return TriggerState(met, sentence, None if met else first)


def _clock(trigger: CronTime, now: datetime, since: datetime, catch_up: timedelta) -> TriggerState:
    latest, next_time = trigger.around(now)
    missed = latest is not None and latest > since
    if missed and latest is not None and now - latest <= catch_up:
        return TriggerState(True, f"{trigger.line} ({trigger.zone}) came at {to_the_minute(latest)}")
    if next_time is None:
        return TriggerState(False, f"{trigger.line} ({trigger.zone}) never comes again")
    late = f"; that of {to_the_minute(latest)} is too long ago" if missed and latest is not None else ""
    return TriggerState(False, f"{trigger.line} ({trigger.zone}) comes at {to_the_minute(next_time)}{late}", next_time)
