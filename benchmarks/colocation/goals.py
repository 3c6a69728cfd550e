"""What is asked of the scheduler, read off one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.colocation.figures import Row
from benchmarks.colocation.points import SERVICE, SLOWDOWNS, slowdown_name

MOST_LOST = 0.02
"""Of the share of requests inside the service level."""
LEAST_OF_CAUSAL = 0.9


def goals(rows: Sequence[Row]) -> dict[str, Any]:
    """By goal: whether it is met, and the figures that say so.

    - ``service level``: what ours loses against online only of the requests inside it, with its interval.
    - ``of the best causal``: our batch work over that of the best policy that a search found, by slowdown.
    - ``ahead of caps and priority``: by slowdown; none of them that slows requests down as little as ours, in the mean
      and for nine of ten, gets more batch work done. Those that do more than ours are named.
    """
    by_name = {row.policy: row for row in rows}
    found: dict[str, Any] = {}
    if (ours := by_name.get(f"ours, {SERVICE}")) is not None:
        found["service level"] = {
            "met": ours.within_lost <= MOST_LOST, "lost": ours.within_lost, "interval": ours.within_lost_interval
        }  # fmt: skip
    declared = {slowdown: by_name.get(f"ours, {slowdown_name(slowdown)}") for slowdown in SLOWDOWNS}
    causal = {}
    ahead: dict[str, list[str]] = {}
    for slowdown, ours in declared.items():
        if ours is None:
            continue
        searched = by_name.get(f"searched, {slowdown_name(slowdown)}")
        if searched is not None and searched.rate:
            causal[slowdown_name(slowdown)] = round(ours.rate / searched.rate, 3)
        ahead[slowdown_name(slowdown)] = [
            row.policy for row in rows if row.policy.startswith(("static cap", "priority")) and _better(row, ours)
        ]
    if causal:
        found["of the best causal"] = {"met": min(causal.values()) >= LEAST_OF_CAUSAL, "by slowdown": causal}
    if ahead:
        found["ahead of caps and priority"] = {"met": not any(ahead.values()), "better": ahead}
    return found


def told(found: dict[str, Any]) -> str:
    """In words, a line each."""
    lines = []
    for name, of in found.items():
        figures = ", ".join(f"{what} {_figure(value)}" for what, value in of.items() if what != "met")
        lines.append(f"  {'met' if of['met'] else 'NOT MET':<8}{name}: {figures}")
    return "\n".join(lines)


def _better(peer: Row, ours: Row) -> bool:
    gentle = peer.slowdown[0] <= ours.slowdown[0] and peer.slowdown[2] <= ours.slowdown[2]
    return gentle and peer.rate > ours.rate


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}"
    if isinstance(value, tuple):
        return " to ".join(_figure(each) for each in value)
    return ", ".join(f"{name} {_figure(of) if isinstance(of, float) else of or 'none'}" for name, of in value.items())
