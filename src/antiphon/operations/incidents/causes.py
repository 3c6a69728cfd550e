"""Mechanisms: which evidence at a component may be the cause of which symptoms of others, and of what class it is.

The order in time alone makes no cause: a cause has evidence of its own, acts on what it is said to have caused along
the topology, and had begun by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from antiphon.catalog.incidents import IncidentClass
from antiphon.operations.incidents.signals import SIGNALS

Reach = Literal["downstream", "load"]

FAILURES = frozenset({"failed", "engine_errors", "slow", "stand_ins", "refused", "burning"})
"""Symptoms that users feel while something does not work."""

_ANSWERS = FAILURES | {"invalid"}
_DATA = frozenset({"stale", "old", "late_stream", "run_failed"})
_STOPPED = frozenset({"restarted", "standstill", "away"})
_NO_ROOM = frozenset({"queue", "refused", "late"})
"""By which load is known to be beyond what there is room for."""

_OF_LOAD = frozenset({"queue", "late", "processors_taken"})
"""Effects of load; callers may be programs on the same machine, which take its processors as well."""

_ENGINE = FAILURES | {"breaker", "silent", "pace", "queue", "run_failed"} | _STOPPED


class Mechanism(msgspec.Struct, frozen=True):
    """A way in which a component causes symptoms.

    Attributes:
        evidence: the symptom or context at the component by which it is known.
        kinds: of components, by the first part of their name; none: any.
        effects: symptoms that it explains, at the component and downstream of it. ``reach`` ``load``: at everything
            that shares gateway and engines.
        change: an act of people, which is a cause only where it is unlikely to have come so near by chance.
        needs: one of these has to be among its effects, elsewhere or here.
    """

    evidence: str
    class_: IncidentClass
    effects: frozenset[str]
    kinds: tuple[str, ...] = ()
    reach: Reach = "downstream"
    change: bool = False
    needs: frozenset[str] = frozenset()


MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism("catalog_away", "infrastructure", _ANSWERS | _DATA | {"queue", "late"} | _STOPPED),
    Mechanism("disk_full", "infrastructure", _ANSWERS | _DATA | _ENGINE | {"catalog_away", "store_away", "late"}),
    Mechanism("memory_short", "infrastructure", _ANSWERS | _DATA | _ENGINE | {"catalog_away", "store_away", "late"}),
    Mechanism("store_away", "infrastructure", _ANSWERS | _DATA | {"blocked"}),
    Mechanism("memory", "infrastructure", _ENGINE | _DATA, ("engine", "gateway", "worker")),
    Mechanism("no_descriptors", "infrastructure", _ENGINE | _DATA, ("engine", "gateway", "worker")),
    *(
        Mechanism(stop, "infrastructure", effects, kinds)
        for stop in sorted(_STOPPED)
        for effects, kinds in (
            (_ENGINE, ("engine",)),
            (FAILURES | {"queue"} | _STOPPED, ("gateway",)),
            (_DATA | _STOPPED, ("worker",)),
        )
    ),
    Mechanism("silent", "infrastructure", _ENGINE, ("engine",)),
    Mechanism("pace", "infrastructure", _ENGINE - _STOPPED, ("engine",)),
    Mechanism("breaker", "infrastructure", FAILURES | {"queue", "run_failed"}, ("engine",)),
    Mechanism("follower_failing", "infrastructure", _DATA | {"burning", "stand_ins", "failed"}, ("source",)),
    Mechanism("blocked", "data quality", _DATA | {"burning", "drifting", "invalid", "failed"}, ("view",)),
    Mechanism("refresh_failed", "data quality", _DATA | {"burning"}, ("source", "view")),
    Mechanism("late_stream", "data quality", _DATA | {"burning"}, ("stream",)),
    Mechanism("warned", "data quality", frozenset({"drifting", "invalid", "failed", "burning"}), ("view",)),
    Mechanism("drifting", "model drift", frozenset({"burning", "invalid"}), ("application",)),
    Mechanism("denied", "security", frozenset({"slow"}) | _OF_LOAD, reach="load"),
    Mechanism("throttled", "overload", frozenset({"traffic"}), ("application",)),
    *(
        Mechanism(load, "overload", FAILURES | _OF_LOAD, ("application",), "load", needs=_NO_ROOM)
        for load in ("traffic", "prompt_load")
    ),
    Mechanism("late", "infrastructure", FAILURES | {"queue"}, ("gateway",), needs=FAILURES),
    Mechanism(  # The supervisor takes nothing that waits for a processor for hung.
        "processors_taken", "infrastructure", (_ANSWERS | _DATA | _ENGINE | {"catalog_away", "late"}) - _STOPPED,
        needs=frozenset({"slow", "failed", "engine_errors", "refused", "stand_ins", "pace", "silent", "late_stream"}),
    ),
    # A release that keeps the gateway busy is felt by all.
    Mechanism("released", "change", FAILURES | {"late"}, ("release",), "load", change=True, needs=frozenset({"late"})),
    Mechanism("released", "change", _ANSWERS | {"drifting"}, ("release",), change=True),
    Mechanism("applied", "change", _ANSWERS | _DATA | {"blocked", "refresh_failed"}, ("definitions",), change=True),
)  # fmt: skip

FACTS: Mapping[str, str] = {
    "catalog_away": "The catalog was away.",
    "disk_full": "The disk is full.",
    "memory_short": "The machine has hardly any memory left.",
    "processors_taken": "Others use the processors.",
    "no_descriptors": "{name} can open no more files and sockets.",
    "store_away": "The online store is away.",
    "restarted": "{name} ended and was started again.",
    "standstill": "{name} stands still.",
    "away": "{name} does not run.",
    "blocked": "A gate blocked a refresh of {name}.",
    "warned": "A gate warned of {name}.",
    "refresh_failed": "A refresh failed by {name}.",
    "follower_failing": "{name} cannot be read from.",
    "drifting": "{name} drifts.",
    "burning": "{name} burns an error budget.",
    "released": "Another release of {name} went live.",
    "applied": "Definitions were applied.",
}
"""Symptoms and context that records say by themselves."""

CONTEXT = frozenset(
    {"released", "applied", "warned", "processors_taken", *(name for name, one in SIGNALS.items() if not one.opens)}
)
"""No symptoms: they begin no incident, and an incident does not last for them."""

SLACK = timedelta(seconds=40)
"""By so much an effect may be seen before its cause: periods are of ten seconds, and each process has its own."""

_BEFORE: Mapping[str, timedelta] = {"released": timedelta(minutes=15), "applied": timedelta(minutes=15)}
_LONGEST = timedelta(hours=6)

UNLIKELY = 0.05
"""Probability below which a change so soon before a symptom is no coincidence."""


def may_precede(mechanism: Mechanism, cause: datetime, effect: datetime) -> bool:
    """Tells whether what began at one moment may have caused what began at another."""
    return effect - _BEFORE.get(mechanism.evidence, _LONGEST) <= cause <= effect + SLACK


def by_chance(gap: timedelta, changes_a_day: float) -> float:
    """The probability that a change comes within so long before a symptom it has nothing to do with: changes that come
    at random moments, so many a day."""
    return min(1.0, max(gap, SLACK) / timedelta(days=1) * max(1.0, changes_a_day))
