"""Signals: readings of the history that may be a symptom, each of one component, with their sentence and kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec

from antiphon.catalog.measurements import Amount, Amounts
from antiphon.operations.history.measures import MEASURES
from antiphon.operations.incidents.topology import APPLICATIONS, CATALOG, GATEWAY, HOST, LINK

SignalKind = Literal["share", "slow", "count", "height", "ceiling", "state"]


class SignalKey(NamedTuple):
    """A signal of one component, such as ``failed`` of ``application/desk``."""

    signal: str
    component: str


class SignalSample(msgspec.Struct):
    """A signal in one period: ``value`` of ``weight``, which is what a share is of; ``buckets`` of durations."""

    value: float = 0.0
    weight: float = 0.0
    buckets: dict[int, int] = {}

    def add(self, value: float, weight: float, buckets: Mapping[int, int] | None = None) -> None:
        self.value += value
        self.weight += weight
        for bucket, count in (buckets or {}).items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count


class SignalRule(msgspec.Struct, frozen=True):
    """A kind of signal.

    Attributes:
        kind: ``share`` bad ones of all, ``slow`` durations beyond the usual ones, ``count`` of a period, ``height``
            above the usual one, ``ceiling`` above all that was before, ``state`` that is bad by itself.
        floor: below which nothing is worth an incident: a share, a count, or for heights the spread of logarithms.
        least: of a height or ceiling, the lowest value that may be a symptom; of durations, the shortest: nobody
            notices a tenth of a second.
        measure, where: by which a person opens the readings; ``{name}`` is the component's name.
        sentence: with ``{name}``, ``{value}`` and ``{usual}``.
        opens: is a symptom. Others are context: they begin no incident, which does not last for them either.
        alone: is an incident also without a cause.
        user: hits the requests of users.
    """

    name: str
    kind: SignalKind
    sentence: str
    measure: str
    where: str = ""
    floor: float = 0.0
    least: float = 0.0
    opens: bool = True
    alone: bool = True
    user: bool = False


_REQUESTS, _OF_APPLICATION = "antiphon_requests", "application={name},path=online"

SIGNALS: Mapping[str, SignalRule] = {
    one.name: one
    for one in (
        SignalRule("failed", "share", "{value} of the requests of {name} fail (usual {usual}).", _REQUESTS,
               _OF_APPLICATION, 0.02, user=True),
        SignalRule("engine_errors", "share", "{value} of the requests of {name} fail by the engine (usual {usual}).",
               _REQUESTS, _OF_APPLICATION, 0.02, user=True),
        SignalRule("invalid", "share",
               "{value} of the requests of {name} get nothing that may be served (usual {usual}).", _REQUESTS,
               _OF_APPLICATION, 0.03, user=True),
        SignalRule("refused", "share", "{value} of the requests of {name} find no room (usual {usual}).", _REQUESTS,
               _OF_APPLICATION, 0.02, user=True),
        SignalRule("throttled", "share", "{value} of the requests of {name} are beyond a quota (usual {usual}).",
               _REQUESTS, _OF_APPLICATION, 0.05),
        SignalRule("rejected", "share",
                   "{value} of the requests of {name} are refused as their callers' mistakes (usual {usual}).",
                   _REQUESTS, _OF_APPLICATION, 0.25, alone=False, user=True),
        SignalRule("slow", "slow", "{value} of the answers of {name} take longer than nine of ten did (usual {usual}).",
               "antiphon_answer_seconds", _OF_APPLICATION, 0.12, 0.1, user=True),
        SignalRule("stand_ins", "share", "{value} of the answers of {name} are stand-ins (usual {usual}).",
               "antiphon_stand_ins", "application={name}", 0.05, user=True),
        SignalRule("traffic", "count", "{name} gets {value} requests in ten seconds (usually up to {usual}).",
               _REQUESTS, _OF_APPLICATION, 8.0, opens=False),
        SignalRule("prompt_load", "ceiling",
                   "{name} sends prompts of {value} tokens in ten seconds (never above {usual}).", "antiphon_tokens",
                   _OF_APPLICATION + ",kind=prompt", 0.4, 2_000.0, opens=False),
        SignalRule("denied", "count", "{value} requests are denied in ten seconds (usually up to {usual}).",
               "antiphon_denials", "", 4.0),
        SignalRule("other_load", "count",
                   "{value} requests for lists, reports and pages come in ten seconds (usually up to {usual}).",
                   "antiphon_operation_requests", "", 20.0, opens=False),
        SignalRule("catalog_errors", "count",
                   "{value} statements are refused by the catalog in ten seconds (usually up to {usual}).",
                   "antiphon_catalog_errors", "", 2.0),
        SignalRule("half_open", "ceiling", "{value} connections send no complete request (never above {usual}).",
               "antiphon_half_open_connections", "", 0.3, 50.0),
        SignalRule("run_failed", "share", "{value} of the attempts at {name} fail (usual {usual}).",
               "antiphon_run_attempts", "workflow={name}", 0.25),
        SignalRule("stale", "state", "Features of {name} are older than its contract allows.",
               "antiphon_application_stale", "application={name}"),
        SignalRule("old", "ceiling", "The values of {name} are {value} s old (never above {usual} s).",
               "antiphon_feature_age_seconds", "view={name}", 0.25, 60.0, opens=False),
        SignalRule("late_stream", "ceiling", "The stream {name} waits for {value} s (never above {usual} s).",
               "antiphon_stream_waiting_seconds", "stream={name}", 0.4, 15.0),
        SignalRule("way", "share", "{value} of the time of answers is none of the engine's (usual {usual}).",
                   "antiphon_engine_way_seconds", "", 0.3, opens=False),
        SignalRule("breaker", "state", "The circuit breaker of {name} is open.", "antiphon_engine_breaker",
               "engine={name}"),
        SignalRule("queue", "ceiling", "{value} requests wait before the engines (never above {usual}).",
               "antiphon_engine_gate", "state=waiting", 0.4, 2.0, opens=False),
        SignalRule("late", "share", "The {name} comes late to its work for {value} of the time (usual {usual}).",
                   "antiphon_loop_late_seconds", "", 0.1, opens=False),
        SignalRule("paused", "share", "All processes of a machine come late for {value} of the time (usual {usual}).",
                   "antiphon_loop_late_seconds", "", 0.1, opens=False),
        SignalRule("pace", "height", "A token takes {name} {value} s (usual {usual} s).",
               "antiphon_engine_call_seconds", "engine={name}", 0.12, 1e-4),
        SignalRule("silent", "state", "The engine {name} tells nothing any more.", "antiphon_engine_slots",
               "engine={name}"),
        SignalRule("memory", "ceiling", "{name} holds {value} bytes (never above {usual}).",
               "process_resident_memory_bytes", "process={name}", 0.15, 5e8),
    )
}  # fmt: skip
"""Signals of the history. Facts of other records are named in :mod:`antiphon.operations.incidents.causes`."""

_TIMED = "antiphon_answer_seconds"
_LOOKS_A_SECOND = 2.0
"""As many looks at a loop count as independent of each other."""

_LOOPS = ("gateway", "worker")
"""Processes that tell by how much their loops are late. One is late by itself; both at once are so by their machine."""

_ENGINE_STATUSES = {"502", "504"}
_REJECTED = {"400", "404", "413", "422"}

_TOGETHER = frozenset({"failed", "engine_errors", "invalid", "refused", "rejected", "slow"})
"""Shares that are also read of all applications together: what hits each a little is seen in their sum."""


def readings(own: Amounts, platform: Amounts) -> dict[SignalKey, SignalSample]:
    """Every signal of one period, from what belongs to a tenant and to the platform.

    ``silent`` is not among them: it is what is missing.
    """
    found: dict[SignalKey, SignalSample] = {}
    tokens: dict[str, float] = {}
    computing: dict[str, float] = {}
    loops: dict[tuple[str, str], list[float]] = {}

    def add(signal: str, component: str, value: float, weight: float = 0.0, amount: Amount | None = None) -> None:
        key = SignalKey(signal, component)
        if key not in found:
            found[key] = SignalSample(buckets={})
        found[key].add(value, weight, None if amount is None else amount.buckets)
        if signal in _TOGETHER and component != APPLICATIONS:
            add(signal, APPLICATIONS, value, weight, amount)

    if own:
        add("denied", GATEWAY, 0.0)
    if platform:
        add("catalog_errors", CATALOG, 0.0)
        add("other_load", GATEWAY, 0.0)
    for name, labels, amount in _aligned(own):
        if name == _REQUESTS:
            _of_requests(add, labels, amount.total)
        elif name == _TIMED and labels[1] == "online" and labels[2] == "generated":
            add("slow", f"application/{labels[0]}", 0.0, amount.weight, amount)
        elif name == "antiphon_answers" and labels[1] == "online":
            add("stand_ins", f"application/{labels[0]}", 0.0, amount.total)
        elif name == "antiphon_stand_ins":
            add("stand_ins", f"application/{labels[0]}", amount.total)
        elif name == "antiphon_denials":
            add("denied", GATEWAY, amount.total)
        elif name == "antiphon_run_attempts" and labels[1] in ("failed", "succeeded"):
            add("run_failed", f"workflow/{labels[0]}", amount.total if labels[1] == "failed" else 0.0, amount.total)
        elif name == "antiphon_application_stale":
            add("stale", f"application/{labels[0]}", amount.total, amount.weight)
        elif name == "antiphon_tokens" and labels[1:] == ("online", "prompt"):
            add("prompt_load", f"application/{labels[0]}", amount.total)
        elif name == "antiphon_feature_age_seconds":
            add("old", f"view/{labels[0]}", amount.greatest)
        elif name == "antiphon_stream_waiting_seconds":
            add("late_stream", f"stream/{labels[0]}", amount.greatest)
    for name, labels, amount in _aligned(platform):
        if name == "antiphon_engine_gate" and labels[0] == "waiting":
            add("queue", GATEWAY, amount.total / amount.weight if amount.weight else 0.0)
        elif name == "antiphon_engine_waited_seconds":
            add("way", LINK, 0.0, amount.total)
        elif name == "antiphon_engine_way_seconds":
            add("way", LINK, amount.total)
        elif name == "antiphon_half_open_connections":
            add("half_open", GATEWAY, amount.greatest)
        elif name == "antiphon_operation_requests":
            add("other_load", GATEWAY, amount.total)
        elif name == "antiphon_catalog_errors":
            add("catalog_errors", CATALOG, amount.total)
        elif name == "antiphon_engine_breaker":
            add("breaker", f"engine/{labels[0]}", amount.weight if amount.greatest >= 2 else 0.0, amount.weight)
        elif name == "antiphon_engine_slots":
            add("silent", f"engine/{labels[0]}", 0.0, 1.0)
        elif name == "antiphon_engine_generated_tokens":
            tokens[labels[0]] = tokens.get(labels[0], 0.0) + amount.total
        elif name == "antiphon_engine_call_seconds":
            computing[labels[0]] = computing.get(labels[0], 0.0) + amount.total
        elif name == "antiphon_loop_late_seconds":
            loops.setdefault((_host(labels[0]), _process(labels[0])), [0.0, 0.0])[0] += amount.total
        elif name == "process_resident_memory_bytes":
            process = _process(labels[0])
            add("memory", process, amount.greatest)
            if process in _LOOPS:
                loops.setdefault((_host(labels[0]), process), [0.0, 0.0])[1] += amount.weight
    for (host, process), (late, seconds) in loops.items():
        if process != _LOOPS[0]:
            continue
        add("late", process, late * _LOOKS_A_SECOND, seconds * _LOOKS_A_SECOND)
        if (other := loops.get((host, _LOOPS[1]))) is not None:
            share = min(one[0] / one[1] if one[1] else 0.0 for one in ((late, seconds), other))
            add("paused", HOST, share * seconds * _LOOKS_A_SECOND, seconds * _LOOKS_A_SECOND)
    for engine, count in tokens.items():
        if count >= 10 and computing.get(engine, 0.0) > 0:
            add("pace", f"engine/{engine}", computing[engine] / count)
    return found


def _of_requests(add: Callable[..., None], labels: tuple[str, ...], count: float) -> None:
    application, path, status, fault = labels
    if path != "online":
        return
    component, platform = f"application/{application}", fault == "platform"
    add("traffic", component, count)
    add("throttled", component, count if fault == "caller" and status == "429" else 0.0, count)
    add("rejected", component, count if fault == "caller" and status in _REJECTED else 0.0, count)
    if fault == "caller":
        return
    kinds = {
        "refused": status == "429",
        "invalid": status == "422",
        "engine_errors": status in _ENGINE_STATUSES,
        "failed": status not in ("422", "429", *_ENGINE_STATUSES),
    }
    for signal, mine in kinds.items():
        add(signal, component, count if platform and mine else 0.0, count)


def _host(label: str) -> str:
    return label.rpartition("@")[2] if "@" in label else ""


def _process(label: str) -> str:
    """The component of a process by its label in the history, ``[TENANT/]NAME[-NUMBER][@HOST]``."""
    name = label.rpartition("/")[2].partition("@")[0]
    return f"engine/{name}" if name.startswith("engine") else name.partition("-")[0]


def _aligned(measured: Amounts) -> Iterator[tuple[str, tuple[str, ...], Amount]]:
    for (name, labels), amount in measured.items():
        if (measure := MEASURES.get(name)) is not None:
            yield name, measure.aligned(labels), amount


READ = frozenset(
    {signal.measure for signal in SIGNALS.values()}
    | {
        _TIMED,
        "antiphon_answers",
        "antiphon_stand_ins",
        "antiphon_engine_waited_seconds",
        "antiphon_engine_generated_tokens",
    }
)
"""The measures that are read."""
