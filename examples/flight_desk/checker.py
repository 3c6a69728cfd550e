"""Is what a served notice says true at the moment it is read?

The judge is not the guard: it shares no code with serving or features, does not know the request's features or the
application's tolerance, and compares only what is printed, at its printed precision, with the source events. A figure
is false when the true value lies further than half a printed step from it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from examples.flight_desk.statements import Statement, extract
from examples.flight_desk.truth import Truth

DELAY_STEP = 5.0
"""Minutes: how coarsely a notice prints delays."""
WIND_STEP = 5.0
"""Miles per hour."""
SHARE_STEP = 5.0
"""Per cent."""
ON_TIME_BELOW = 12.5
"""Minutes: "on time" is said of departures whose mean delay prints below 15 (the customary bound of on time)."""
DELAYED_FROM = 2.5
"""Minutes: "delayed" is said of departures whose mean delay prints as anything but zero."""
ROUNDING = 0.005
"""A mean may have been rounded to hundredths before it was printed: not an error of what is printed."""

Verdict = Literal["true", "written", "stale", "lag"]


class Request(msgspec.Struct, frozen=True):
    """What the notice answered."""

    origin: str
    carrier: str
    dest: str


class Judged(msgspec.Struct, frozen=True):
    """One statement and what became of it.

    ``written``: false already against what was known when it was written. ``lag``: true of everything known now,
    false only because of an event that has happened and is not yet known. ``stale``: true when written, false now.
    ``now`` is the true value at reading, in the statement's unit.
    """

    statement: Statement
    verdict: Verdict
    now: float | None


def judge(notice: str, request: Request, written: datetime, read: datetime, truth: Truth) -> tuple[Judged, ...]:
    """Judge every statement of a notice that was written at one moment and read at another."""
    return tuple(_judge(statement, request, written, read, truth) for statement in extract(notice))


def _judge(statement: Statement, request: Request, written: datetime, read: datetime, truth: Truth) -> Judged:
    now = _values(statement, request, read, truth, known=False)
    shown = now[0] if now else None
    if _holds(statement, now):
        return Judged(statement, "true", shown)
    if not _holds(statement, _values(statement, request, written, truth, known=True)):
        return Judged(statement, "written", shown)
    if _holds(statement, _values(statement, request, read, truth, known=True)):
        return Judged(statement, "lag", shown)
    return Judged(statement, "stale", shown)


def _values(
    statement: Statement, request: Request, at: datetime, truth: Truth, *, known: bool
) -> tuple[float | None, ...]:
    """The true values a statement may mean: one, two for a share of nobody in particular, none for nonsense."""
    subject = statement.subject
    match statement.kind:
        case "delay" | "on_time" | "delayed":
            return (truth.delay(subject or request.origin, at),)
        case "wind":
            return (truth.wind(subject or request.origin, at, known=known),)
        case "carrier":
            return (truth.carrier(subject or request.carrier, at),)
        case "route":
            return (truth.route(request.origin, subject or request.dest, at),)
        case "share":
            return (truth.carrier(request.carrier, at), truth.route(request.origin, request.dest, at))
        case "unsupported":
            return ()


def _holds(statement: Statement, values: tuple[float | None, ...]) -> bool:
    return any(value is not None and _agrees(statement, value) for value in values)


def _agrees(statement: Statement, value: float) -> bool:
    if statement.kind == "on_time":
        return value < ON_TIME_BELOW + ROUNDING
    if statement.kind == "delayed":
        return value >= DELAYED_FROM - ROUNDING
    assert statement.figure is not None
    step = {"delay": DELAY_STEP, "wind": WIND_STEP}.get(statement.kind, SHARE_STEP)
    return abs(statement.figure - value) <= step / 2 + ROUNDING
