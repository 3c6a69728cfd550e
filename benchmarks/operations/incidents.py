"""Measures if incidents are found, by the right cause, and how often one is opened for nothing; beside rules.

A simulator of what processes measure and record drives the product's own detectors, explanation and course on a clock
that is moved by hand. It shares neither thresholds nor code with them: faults act on a small model of a
platform
(arrivals, service times, a queue before engines, refreshes), and the measures follow from that.

The kinds of faults are split beforehand. :data:`TUNED` may be looked at while detectors are changed, with the seeds
below 1,000; :data:`HELD_OUT` are only measured. Cases without a cause (a peak within capacity, a quiet night, mistakes
of callers) are in both halves. One hand wrote simulator and detectors, and facts that the platform records (a process
that restarted, a gate that blocked) are given: the figures show what is made of evidence, not that there always is any.

    python -m benchmarks.operations.incidents [--size ci|demo|full] [--keep]

A table, then one JSON line, kept in ``benchmarks/results/incidents.jsonl``.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from benchmarks.durability.kill_harness_command import finish

from antiphon.catalog.incidents import NO_CAUSE, Incident
from antiphon.catalog.measurements import FINEST, Amount, Measurements
from antiphon.core.histograms import bucket_of
from antiphon.operations.incidents.course import advance, impact_of
from antiphon.operations.incidents.detection import SignalDetectors, Symptom
from antiphon.operations.incidents.explanation import explain
from antiphon.operations.incidents.signals import SignalKey, readings
from antiphon.operations.incidents.topology import Topology

SIZES: dict[str, dict[str, Any]] = {
    "ci": {"seeds": 2, "quiet_hours": 4},
    "demo": {"seeds": 10, "quiet_hours": 24},
    "full": {"seeds": 40, "quiet_hours": 24 * 7},
}
APPLICATIONS = ("desk", "triage", "assistant")
VIEWS = {"delays": "orders", "prices": "catalog", "stock": "warehouse"}
USES = {"desk": ("delays", "prices"), "triage": ("prices",), "assistant": ("stock",)}
BEGIN = datetime(2026, 3, 2, 8, tzinfo=UTC)
WARM_UP, LASTS, AFTER = 90, 30, 6
"""Periods of ten seconds."""

TUNED = (
    "engine_killed", "engine_slow", "source_refused", "bad_release", "overload", "disk_full", "denial_attack",
    "worker_stopped", "peak_within_capacity", "callers_mistakes",
)  # fmt: skip
HELD_OUT = (
    "engine_partitioned", "online_store_away", "stream_late", "schema_changed", "slow_release", "gateway_killed",
    "quota_exceeded", "labels_drift", "memory_leak", "catalog_away", "quiet_night", "other_callers", "unseen_cause",
)  # fmt: skip
INNOCENT = {"peak_within_capacity", "callers_mistakes", "quiet_night", "other_callers", "unseen_cause"}
"""No component of the platform is to blame."""


class World:
    """A small model of a platform for one period after the other."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.rate = {name: self.chance.uniform(1.5, 4.0) for name in APPLICATIONS}
        self.service = {name: self.chance.uniform(0.15, 0.5) for name in APPLICATIONS}
        self.failing = self.chance.uniform(0.0, 0.006)
        self.token = self.chance.uniform(0.004, 0.02)
        self.slots = 8.0
        self.state: dict[str, float] = {}
        self.facts: list[Symptom] = []
        self.ages = dict.fromkeys(VIEWS, 0.0)
        self.refreshed = dict.fromkeys(VIEWS, True)
        self.memory = dict.fromkeys(("gateway", "worker", "engine"), 3e8)

    def of(self, name: str, usual: float = 0.0) -> float:
        return self.state.get(name, usual)

    def period(self, at: datetime) -> tuple[Measurements, Measurements]:
        own, platform, chance = Measurements(), Measurements(), self.chance
        speed = self.of("speed", 1.0) * chance.lognormvariate(0, 0.04)
        wanted = {name: self.rate[name] * 10 * self.of(f"traffic/{name}", 1.0) for name in APPLICATIONS}
        arrivals = {name: poisson(chance, mean) for name, mean in wanted.items()}
        work = sum(arrivals[name] * self.service[name] * self.of(f"work/{name}", 1.0) for name in APPLICATIONS)
        load = work * speed / (self.slots * 10)
        engine_down = self.of("engine_down")
        waiting = max(0.0, load - 0.9) * 30 + (arrivals["desk"] if engine_down > 0.5 else 0.0)
        for name in APPLICATIONS:
            self._requests(own, name, arrivals[name], speed, load, engine_down)
        denied = poisson(chance, self.of("denied", 0.05))
        if denied:
            own[("antiphon_denials", ("unauthenticated",))] = Amount(float(denied))
        for view, source in VIEWS.items():
            if self.refreshed[view] and self.ages[view] >= 900:
                bad = self.of(f"refused/{source}") > 0
                if self.of("worker_down") or bad or self.of("refresh_fails"):
                    if not self.of("worker_down"):
                        own.add({("antiphon_run_attempts", ("refresh", "failed")): Amount(1.0)})
                else:
                    self.ages[view] = 0.0
                    own.add({("antiphon_run_attempts", ("refresh", "succeeded")): Amount(1.0)})
            self.ages[view] += 10
            if not self.of("worker_down"):
                own[("antiphon_feature_age_seconds", (view,))] = Amount(self.ages[view] * 10, 10.0, self.ages[view])
        if not self.of("worker_down"):
            lag = self.of("stream_lag") or chance.expovariate(2.0)
            own[("antiphon_stream_waiting_seconds", ("clicks",))] = Amount(lag * 10, 10.0, lag)
        platform[("antiphon_engine_gate", ("waiting",))] = Amount(waiting * 10, 10.0, waiting)
        state = 2.0 if engine_down > 0.5 else 0.0
        platform[("antiphon_engine_breaker", ("engine",))] = Amount(state * 10, 10.0, state)
        tokens = sum(arrivals.values()) * 40 * (1 - engine_down)
        if not self.of("engine_silent"):
            platform[("antiphon_engine_slots", ("engine",))] = Amount(80.0, 10.0, 8.0)
            platform[("antiphon_engine_generated_tokens", ("engine", "online"))] = Amount(tokens)
            platform[("antiphon_engine_call_seconds", ("engine",))] = Amount(tokens * self.token * speed)
        for process, resident in self.memory.items():
            self.memory[process] = resident * chance.uniform(0.999, 1.001) * self.of(f"leak/{process}", 1.0)
            platform[("process_resident_memory_bytes", (process,))] = Amount(resident * 10, 10.0, resident)
        return own, platform

    def _requests(
        self, own: Measurements, name: str, count: int, speed: float, load: float, engine_down: float
    ) -> None:
        chance, ends = self.chance, {"good": 0}
        buckets: dict[int, int] = {}
        for _ in range(count):
            ended = "good"
            if chance.random() < self.of("gateway_down") or chance.random() < self.of("catalog_down"):
                ended = "503"
            elif chance.random() < engine_down:
                ended = chance.choice(("502", "504"))
            elif load > 1.1 and chance.random() < 1 - 1 / load:
                ended = "429"
            elif chance.random() < self.of(f"invalid/{name}", self.failing):
                ended = "422"
            elif chance.random() < self.of(f"failing/{name}", self.failing):
                ended = "503"
            elif chance.random() < self.of("disk"):
                ended = "507"
            ends[ended] = ends.get(ended, 0) + 1
            if ended == "good":
                queue = max(0.0, load - 0.7) * 3
                seconds = self.service[name] * speed * self.of(f"slow/{name}", 1.0) * chance.lognormvariate(0, 0.35)
                bucket = bucket_of(seconds + queue)
                buckets[bucket] = buckets.get(bucket, 0) + 1
        for status, number in ends.items():
            labels = (name, "online", "200", "none") if status == "good" else (name, "online", status, "platform")
            own[("antiphon_requests", labels)] = Amount(float(number))
        for status, share in (("404", self.of("mistakes", 0.01)), ("429", self.of(f"quota/{name}"))):
            if number := sum(chance.random() < share for _ in range(count)):
                own[("antiphon_requests", (name, "online", status, "caller"))] = Amount(float(number))
        good = float(ends["good"])
        if good:
            own[("antiphon_answer_seconds", (name, "online", "generated"))] = Amount(good, good, 0.0, buckets)
            own[("antiphon_answers", (name, "online", "generated", "live"))] = Amount(good)


Fault = Callable[[World, datetime, int], None]
"""Acts on a world in one period of its time, counted from 0."""


def fact(world: World, at: datetime, signal: str, component: str, lasting: bool = True) -> None:
    world.facts = [one for one in world.facts if (one.signal, one.component) != (signal, component)]
    world.facts.append(Symptom(at, signal, component, sentence=f"{signal} of {component}.", lasting=lasting))


def _states(**states: float) -> Fault:
    def act(world: World, at: datetime, period: int) -> None:
        world.state.update({name.replace("__", "/"): value for name, value in states.items()})

    return act


def _with_fact(act: Fault, signal: str, component: str) -> Fault:
    def both(world: World, at: datetime, period: int) -> None:
        act(world, at, period)
        if period == 0:
            fact(world, at + timedelta(seconds=world.chance.uniform(0, 8)), signal, component)

    return both


def _engine_killed(world: World, at: datetime, period: int) -> None:
    world.state["engine_down"] = 0.9 if period < 4 else 0.0
    if period == 0:
        fact(world, at + timedelta(seconds=3), "restarted", "engine/engine")


def _schema_changed(world: World, at: datetime, period: int) -> None:
    world.state["refused/catalog"] = 1.0
    if period == 1:
        fact(world, at, "blocked", "view/prices")


FAULTS: Mapping[str, tuple[Fault, str, frozenset[str]]] = {
    "engine_killed": (_engine_killed, "infrastructure", frozenset({"engine/engine"})),
    "engine_slow": (_states(speed=3.3), "infrastructure", frozenset({"engine/engine"})),
    "engine_partitioned": (
        _states(engine_down=1.0, engine_silent=1.0), "infrastructure", frozenset({"engine/engine"})
    ),
    "source_refused": (
        _with_fact(_states(refused__orders=1.0), "blocked", "view/delays"), "data quality", frozenset({"source/orders"})
    ),
    "schema_changed": (_schema_changed, "data quality", frozenset({"source/catalog"})),
    "stream_late": (_states(stream_lag=180.0), "data quality", frozenset({"source/clicks"})),
    "bad_release": (
        _with_fact(_states(invalid__desk=0.5), "released", "release/desk"), "change", frozenset({"release/desk"})
    ),
    "slow_release": (
        _with_fact(_states(slow__triage=3.0), "released", "release/triage"), "change", frozenset({"release/triage"})
    ),
    "overload": (
        _states(traffic__desk=12.0, traffic__triage=1.0), "overload", frozenset({"application/desk"})
    ),
    "quota_exceeded": (_states(quota__desk=0.6), "overload", frozenset({"application/desk"})),
    "disk_full": (_with_fact(_states(disk=0.9), "disk_full", "host"), "infrastructure", frozenset({"host"})),
    "denial_attack": (_states(denied=80.0), "security", frozenset({"gateway"})),
    "worker_stopped": (
        _with_fact(_states(worker_down=1.0), "standstill", "worker"), "infrastructure", frozenset({"worker"})
    ),
    "gateway_killed": (
        _with_fact(_states(gateway_down=0.4), "restarted", "gateway"), "infrastructure", frozenset({"gateway"})
    ),
    "online_store_away": (
        _with_fact(
            _states(failing__desk=0.8, failing__triage=0.8, failing__assistant=0.8), "store_away", "online-store"
        ),
        "infrastructure", frozenset({"online-store"}),
    ),
    "catalog_away": (
        _with_fact(_states(catalog_down=0.7), "catalog_away", "catalog"), "infrastructure", frozenset({"catalog"})
    ),
    "labels_drift": (
        _with_fact(_states(invalid__assistant=0.05), "drifting", "application/assistant"), "model drift",
        frozenset({"application/assistant"}),
    ),
    "memory_leak": (_states(leak__engine=1.08), "infrastructure", frozenset({"engine/engine"})),
    "peak_within_capacity": (_states(traffic__desk=2.0, traffic__triage=1.6), NO_CAUSE, frozenset()),
    "callers_mistakes": (_states(mistakes=0.6), NO_CAUSE, frozenset()),
    "quiet_night": (
        _states(traffic__desk=0.05, traffic__triage=0.05, traffic__assistant=0.05), NO_CAUSE, frozenset()
    ),
    "other_callers": (_states(traffic__assistant=2.5, traffic__desk=0.3), NO_CAUSE, frozenset()),
    # Something slows one application that nothing measures: an incident, and no blame.
    "unseen_cause": (_states(slow__assistant=4.0), NO_CAUSE, frozenset()),
}  # fmt: skip


def topology() -> Topology:
    edges: dict[str, set[str]] = {}

    def act(cause: str, *on: str) -> None:
        edges.setdefault(cause, set()).update(on)
        for one in on:
            edges.setdefault(one, set())

    act("host", "catalog", "gateway", "worker", "online-store", "engine/engine")
    act("catalog", "gateway", "worker")
    act("worker", "workflow/refresh", "stream/clicks", *(f"view/{view}" for view in VIEWS))
    act("source/clicks", "stream/clicks")
    for view, source in VIEWS.items():
        act(f"source/{source}", f"view/{view}")
        act(f"view/{view}", "workflow/refresh")
        act("online-store", f"view/{view}")
    for name in APPLICATIONS:
        act("engine/engine", f"application/{name}")
        act("gateway", f"application/{name}")
        act("online-store", f"application/{name}")
        act(f"release/{name}", f"application/{name}")
        for view in USES[name]:
            act(f"view/{view}", f"application/{name}")
    return Topology(
        {cause: tuple(sorted(on)) for cause, on in edges.items()},
        {f"view/{view}": f"source/{source}" for view, source in VIEWS.items()},
        ("engine/engine",),
    )


class Outcome(msgspec.Struct, frozen=True):
    """Of one case: what was found, and after how many seconds; ``None`` where nothing was."""

    kind: str
    class_: str
    roots: frozenset[str]
    seconds: float | None
    incidents: int
    by_rules: str


class Watcher:
    """The product's core over a simulated world."""

    def __init__(self, world: World) -> None:
        self.world, self.topology = world, topology()
        self.detectors = SignalDetectors()
        self.incidents: dict[str, Incident] = {}
        self.memory: dict[SignalKey, tuple[Symptom, datetime]] = {}

    def step(self, at: datetime) -> tuple[Measurements, Measurements]:
        own, platform = self.world.period(at)
        found = readings(own, platform)
        now = at + FINEST + timedelta(seconds=2)
        present = [*self.detectors.take(at, found), *(one for one in self.world.facts if one.since <= now)]
        keys = {one.key for one in present}
        for key, (one, seen) in list(self.memory.items()):
            if key not in keys:
                self.memory[key] = msgspec.structs.replace(one, lasting=False), seen
                if now - seen > timedelta(minutes=10):
                    del self.memory[key]
        self.memory |= {one.key: (one, now) for one in present}
        traffic = {key.component.partition("/")[2]: one.value for key, one in found.items() if key.signal == "traffic"}
        diagnoses = explain([one for one, _ in self.memory.values()], self.topology)
        changed = advance(list(self.incidents.values()), diagnoses, impact_of(present, traffic), now)
        self.incidents |= {one.id: one for one in changed}
        return own, platform


def by_rules(own: Measurements, platform: Measurements) -> str:
    """Threshold rules as the shipped Prometheus alerts have them: errors, latency, breaker, waiting requests."""
    requests = failed = slow = answers = 0.0
    for (name, labels), amount in own.items():
        if name == "antiphon_requests":
            requests += amount.total
            failed += amount.total if labels[3] == "platform" else 0.0
        elif name == "antiphon_answer_seconds":
            answers += amount.weight
            slow += sum(count for bucket, count in amount.buckets.items() if bucket > bucket_of(1.0))
    breaker = any(name == "antiphon_engine_breaker" and amount.greatest >= 2 for (name, _), amount in platform.items())
    waiting = any(
        name == "antiphon_engine_gate" and labels[0] == "waiting" and amount.greatest > 5
        for (name, labels), amount in platform.items()
    )
    denied = sum(amount.total for (name, _), amount in own.items() if name == "antiphon_denials")
    if breaker:
        return "infrastructure"
    if denied > 20:
        return "security"
    if waiting:
        return "overload"
    if (requests and failed / requests > 0.05) or (answers and slow / answers > 0.3):
        return "infrastructure"
    return NO_CAUSE


def case(kind: str, seed: int) -> Outcome:
    """One fault in one world."""
    world = World(seed)
    watcher, at = Watcher(world), BEGIN
    for _ in range(WARM_UP):
        watcher.step(at)
        at += FINEST
    before = set(watcher.incidents)
    act = FAULTS[kind][0]
    began = at + timedelta(seconds=world.chance.uniform(0, 9))
    seen: Incident | None = None
    seconds: float | None = None
    rules: str = NO_CAUSE
    for period in range(LASTS + AFTER):
        if period < LASTS:
            act(world, at, period)
        own, platform = watcher.step(at)
        if period >= 1 and rules == NO_CAUSE:
            rules = by_rules(own, platform)
        at += FINEST
        new = [one for id, one in watcher.incidents.items() if id not in before]
        if new and seconds is None:
            seconds = max(0.0, (at + timedelta(seconds=2 + 2.5) - began).total_seconds())
    new = [one for id, one in watcher.incidents.items() if id not in before]
    merged = [one for one in new if not any(entry.kind == "merged" for entry in one.timeline)]
    if merged:
        seen = max(merged, key=lambda one: (len(one.roots) > 0, len(one.symptoms)))
    found = frozenset(root.component for root in seen.roots) if seen else frozenset()
    class_ = seen.class_ if seen else NO_CAUSE
    return Outcome(kind, class_, found, seconds, len(merged), rules)


def false_incidents(hours: int, seed: int) -> float:
    """Incidents a day in a world without any fault, whose traffic follows the hours."""
    import math

    world = World(seed)
    watcher, at = Watcher(world), BEGIN
    for period in range(hours * 360):
        hour = period / 360
        for name in APPLICATIONS:
            world.state[f"traffic/{name}"] = 1 + 0.6 * math.sin(hour * math.pi / 12)
        watcher.step(at)
        at += FINEST
    return len(watcher.incidents) * 24 / hours


def poisson(chance: random.Random, mean: float) -> int:
    count, left = 0, chance.expovariate(1.0)
    while left < mean:
        count, left = count + 1, left + chance.expovariate(1.0)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--kinds", choices=("tuned", "held-out", "all"), default="all")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    size = SIZES[options.size]
    kinds = {"tuned": TUNED, "held-out": HELD_OUT, "all": TUNED + HELD_OUT}[options.kinds]
    outcomes: list[Outcome] = []
    print(f"{'kind':22} {'held out':9} {'class':>6} {'roots':>6} {'one':>4} {'found s':>8}  by rules   else")
    for kind in kinds:
        first = 5_000 if kind in HELD_OUT else 100
        some = [case(kind, first + seed) for seed in range(size["seeds"])]
        outcomes += some
        _, class_, roots = FAULTS[kind]
        delays = [one.seconds for one in some if one.seconds is not None]
        wrong = sorted({f"{one.class_} {sorted(one.roots)}" for one in some if one.roots != roots})
        print(
            f"{kind:22} {'yes' if kind in HELD_OUT else 'no':9} {share(one.class_ == class_ for one in some):6.2f} "
            f"{share(one.roots == roots for one in some):6.2f} {share(one.incidents <= 1 for one in some):4.1f} "
            f"{statistics.median(delays) if delays else float('nan'):8.1f}  "
            f"{share(one.by_rules == class_ for one in some):8.2f}   {'; '.join(wrong)[:90]}"
        )
    held = [one for one in outcomes if one.kind in HELD_OUT] or outcomes
    guilty = [one for one in held if one.kind not in INNOCENT]
    innocent = [one for one in outcomes if one.kind in INNOCENT]
    delays = [one.seconds for one in outcomes if one.seconds is not None and one.kind not in INNOCENT]
    result = {
        "benchmark": "incidents", "size": options.size, "seeds": size["seeds"], "kinds": len(kinds),
        "simulated": True,
        "class_accuracy": round(share(one.class_ == FAULTS[one.kind][1] for one in held), 3),
        "class_accuracy_rules": round(share(one.by_rules == FAULTS[one.kind][1] for one in held), 3),
        "root_set_exact": round(share(one.roots == FAULTS[one.kind][2] for one in guilty), 3),
        "found": round(share(one.seconds is not None for one in guilty), 3),
        "innocents_blamed": round(share(bool(one.roots) for one in innocent), 3),
        "one_incident": round(share(one.incidents == 1 for one in guilty), 3),
        "false_incidents_per_day": round(false_incidents(size["quiet_hours"], 9_000), 2),
        "detection_seconds_p50": round(statistics.median(delays), 1) if delays else None,
    }  # fmt: skip
    result["holds"] = result["innocents_blamed"] <= 0.05 and result["false_incidents_per_day"] < 1
    return finish("incidents", result, keep=options.keep)


def share(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


if __name__ == "__main__":
    sys.exit(main())
