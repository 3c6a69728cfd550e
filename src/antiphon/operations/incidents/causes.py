"""Mechanisms: which evidence at a component may be the cause of which symptoms of others, and of what class it is.

The order in time alone makes no cause: a cause has evidence of its own, acts on what it is said to have caused along
the topology, and had begun by then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from antiphon.catalog.incidents import IncidentClass
from antiphon.operations.incidents.detection import Symptom
from antiphon.operations.incidents.signals import SIGNALS

Reach = Literal["downstream", "load", "lock"]

FAILURES = frozenset({"failed", "engine_errors", "slow", "stand_ins", "refused", "burning", "unanswered"})
"""Symptoms that users feel while something does not work."""

_ANSWERS = FAILURES | {"invalid", "rejected"}
_DATA = frozenset({"stale", "old", "late_stream", "run_failed", "invalid", "rejected"})
"""Symptoms of data that is not renewed; applications may answer nothing from what is too old, or of what is gone."""

_STOPPED = frozenset({"restarted", "standstill", "away"})
_NO_ROOM = frozenset({"queue", "refused", "late"})
"""By which load is known to be beyond what there is room for."""

_OF_LOAD = frozenset({"queue", "way", "late", "paused", "processors_taken", "processor_limit"})
"""Effects of load; callers may be programs on the same machine, which take its processors as well."""

_KEPT = frozenset({"slow", "failed", "engine_errors", "refused", "stand_ins", "pace", "silent", "late_stream"})
"""Symptoms of a process that is kept from the processors."""

_SERVED = frozenset({"catalog_away", "catalog_errors", "way", "late", "paused"})
"""Symptoms of processes and of the catalog on a machine that does not serve them."""

_ENGINE = FAILURES | {"breaker", "silent", "pace", "queue", "way", "run_failed"} | _STOPPED


class Mechanism(msgspec.Struct, frozen=True):
    """A way in which a component causes symptoms.

    Attributes:
        evidence: the symptom or context at the component by which it is known.
        kinds: of components, by the first part of their name; none: any.
        effects: symptoms that it explains, at the component and downstream of it. ``reach`` ``load``: at everything
            that shares gateway and engines; ``lock``: at the catalog too, whose lock a slow process keeps.
        surge: at so many times its usual height a load needs none of these.
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
    surge: float = math.inf


MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism("catalog_away", "infrastructure", _ANSWERS | _DATA | {"queue", "late"} | _STOPPED),
    Mechanism("catalog_errors", "infrastructure", _ANSWERS | _DATA | {"catalog_away", "queue"} | _STOPPED),
    *(
        Mechanism(host, "infrastructure", _ANSWERS | _DATA | _ENGINE | _SERVED | {"store_away", "blocked"})
        for host in ("disk_full", "disk_read_only", "memory_short")
    ),
    Mechanism("store_away", "infrastructure", _ANSWERS | _DATA | {"blocked"}),
    Mechanism("memory", "infrastructure", _ENGINE | _DATA, ("engine", "gateway", "worker")),
    Mechanism("half_open", "security", FAILURES | _OF_LOAD | {"no_descriptors"}, reach="load"),
    Mechanism("no_descriptors", "infrastructure", _ENGINE | _DATA, ("engine", "gateway", "worker")),
    Mechanism("settings_broken", "change", _ANSWERS | _DATA | _ENGINE, ("engine", "gateway", "worker")),
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
    Mechanism("way", "infrastructure", FAILURES | {"queue", "breaker"}, ("link",), needs=FAILURES),
    Mechanism("breaker", "infrastructure", FAILURES | {"queue", "run_failed"}, ("engine",)),
    Mechanism("follower_failing", "infrastructure", _DATA | {"burning", "stand_ins", "failed"}, ("source",)),
    Mechanism("blocked", "data quality", _DATA | {"burning", "drifting", "failed"}, ("view",)),
    Mechanism("refresh_failed", "data quality", _DATA | {"burning"}, ("source", "view")),
    Mechanism("late_stream", "data quality", _DATA | {"burning"}, ("stream",)),
    Mechanism("warned", "data quality", frozenset({"drifting", "invalid", "failed", "burning"}), ("view",)),
    Mechanism("drifting", "model drift", frozenset({"burning", "invalid"}), ("application",)),
    Mechanism(
        "governed", "change", frozenset({"denied", "throttled", "refused", "rejected", "failed"}), ("access",),
        change=True,
    ),
    Mechanism("denied", "security", frozenset({"slow"}) | _OF_LOAD, reach="load"),
    Mechanism("throttled", "overload", frozenset({"traffic"}), ("application",)),
    *(
        Mechanism(load, "overload", FAILURES | _OF_LOAD, ("application",), "load", needs=_NO_ROOM, surge=5.0)
        for load in ("traffic", "prompt_load")
    ),
    Mechanism(
        "other_load", "overload", FAILURES | _OF_LOAD, ("gateway",), "load", needs=_NO_ROOM | {"slow"}, surge=5.0
    ),
    Mechanism("unanswered", "infrastructure", FAILURES, ("gateway",)),
    Mechanism("late", "infrastructure", FAILURES | {"queue", "way"}, ("gateway",), needs=FAILURES),
    Mechanism(
        "paused", "infrastructure", _ANSWERS | _DATA | _ENGINE | {"catalog_away", "late", "way"}, needs=FAILURES
    ),
    Mechanism(
        "processor_limit", "infrastructure", _ANSWERS | _DATA | _ENGINE | _SERVED, reach="lock",
        needs=_KEPT | {"catalog_away"},
    ),
    Mechanism(  # The supervisor takes nothing that waits for a processor for hung.
        "processors_taken", "infrastructure", (_ANSWERS | _DATA | _ENGINE | _SERVED) - _STOPPED, needs=_KEPT,
    ),
    # A release that keeps the gateway busy is felt by all.
    Mechanism(
        "released", "change", FAILURES | {"late", "paused", "way"}, ("release",), "load", change=True,
        needs=frozenset({"late"}),
    ),
    Mechanism("released", "change", _ANSWERS | {"drifting"}, ("release",), change=True),
    Mechanism(
        "reconfigured", "change", _ANSWERS | {"queue", "late", "way", "denied", "throttled"}, ("gateway",), change=True
    ),
    Mechanism("reconfigured", "change", _DATA, ("worker",), change=True),
    Mechanism("applied", "change", _ANSWERS | _DATA | {"blocked", "refresh_failed"}, ("definitions",), change=True),
)  # fmt: skip

FACTS: Mapping[str, str] = {
    "catalog_away": "The catalog was away.",
    "disk_full": "The disk is full.",
    "disk_read_only": "The disk takes no more writes.",
    "memory_short": "The machine has hardly any memory left.",
    "processors_taken": "Others use the processors.",
    "processor_limit": "A limit keeps {name} from the processors.",
    "no_descriptors": "{name} can open no more files and sockets.",
    "store_away": "The online store is away.",
    "restarted": "{name} ended and was started again.",
    "standstill": "{name} stands still.",
    "away": "{name} does not run.",
    "settings_broken": "{name} cannot start with the settings as they are.",
    "unanswered": "The gateway does not answer new connections.",
    "blocked": "A gate blocked a refresh of {name}.",
    "warned": "A gate warned of {name}.",
    "refresh_failed": "A refresh failed by {name}.",
    "follower_failing": "{name} cannot be read from.",
    "drifting": "{name} drifts.",
    "burning": "{name} burns an error budget.",
    "governed": "Keys, policies, budgets or tenants were changed.",
    "released": "Another release of {name} went live.",
    "applied": "Definitions were applied.",
    "reconfigured": "{name} was started with other settings.",
}
"""Symptoms and context that records say by themselves."""

CONTEXT = frozenset(
    {
        "released", "applied", "reconfigured", "governed", "warned", "processors_taken", "processor_limit",
        *(name for name, one in SIGNALS.items() if not one.opens),
    }
)  # fmt: skip
"""No symptoms: they begin no incident, and an incident does not last for them."""

SLACK = timedelta(seconds=40)
"""By so much an effect may be seen before its cause: periods are of ten seconds, and each process has its own."""

_BEFORE: Mapping[str, timedelta] = dict.fromkeys(
    ("released", "applied", "reconfigured", "governed"), timedelta(minutes=15)
)
_LONGEST = timedelta(hours=6)

UNLIKELY = 0.05
"""Probability below which a change so soon before a symptom is no coincidence."""


def is_enough(mechanism: Mechanism, evidence: Symptom, effects: Iterable[Symptom]) -> bool:
    """Tells whether evidence and its effects are what the mechanism asks for."""
    if not mechanism.needs or evidence.value >= mechanism.surge * evidence.usual > 0:
        return True
    return any(one.signal in mechanism.needs for one in effects)


def may_precede(mechanism: Mechanism, cause: datetime, effect: datetime) -> bool:
    """Tells whether what began at one moment may have caused what began at another."""
    return effect - _BEFORE.get(mechanism.evidence, _LONGEST) <= cause <= effect + SLACK


def by_chance(gap: timedelta, changes_a_day: float) -> float:
    """The probability that a change comes within so long before a symptom it has nothing to do with: changes that come
    at random moments, so many a day."""
    return min(1.0, max(gap, SLACK) / timedelta(days=1) * max(1.0, changes_a_day))
