"""Generated views, events and moments for ``benchmarks/features/read_paths.py``: a case is the same on every
machine."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from benchmarks.features.read_paths_oracle import SourceEvent

import antiphon
from antiphon import Entity, Source, feature_view
from antiphon.core.clock import microseconds
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.plan import SLACK

SEED = 20261128
T = datetime(2013, 4, 10, 12, tzinfo=UTC)
BASE = microseconds(T)
"""The snapshot's moment."""
SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
ENTITIES, MOMENTS = 40, 16
WINDOWS = {"1s": SECOND, "5s": 5 * SECOND, "1m": MINUTE, "20m": 20 * MINUTE, "2h": 2 * HOUR, "1d": DAY, "2d": 2 * DAY,
           "3d": 3 * DAY, "30d": 30 * DAY, None: None}  # fmt: skip
NUMBERS = (None, 0.0, -0.0, 0.005, -2.675, 1.0, 3.0, 41.5, 1e-9, -1e6, 7e12, 1e15)
NAMES = (None, "", "a", "Z", "é", "日本", "x" * 300)


class Case(NamedTuple):
    """A generated view with its events and what is asked of it: entity and moment."""

    features: dict[str, dict[str, Any]]
    events: list[SourceEvent]
    streams: bool
    asked: list[tuple[str, int]]


def case_of(number: int) -> Case:
    """The case of this number."""
    draw = random.Random(f"{SEED}/{number}")
    streams = draw.random() < 0.5
    features = {f"f{place}": _feature(draw, number % 4 == 0, streams) for place in range(draw.randint(1, 12))}
    widths = [WINDOWS[one["window"]] or DAY for one in features.values()]
    events: list[SourceEvent] = []
    asked: list[tuple[str, int]] = []
    for place in range(ENTITIES):
        entity, own = f"stop {place}", draw.choice((0, 0, 1, 1, 2, 3, 6, 12, 90))
        mine = [_event(draw, f"{place}/{at}", entity, widths) for at in range(own)]
        if not streams:
            mine = [event for event in mine if event.available <= BASE]
        events += mine
        asked += [(entity, moment) for moment in _moments(draw, mine, widths)]
    draw.shuffle(asked)
    return Case(features, events, streams, asked)


def _feature(draw: random.Random, counts: bool, streams: bool) -> dict[str, Any]:
    # Encodings are fitted to the snapshot's events alone, so they are no matter of streams.
    others = ("sum", "mean", "share", "std", "min", "max", "first", "last", "distinct", "quantile")
    fitted = () if streams else ("frequency", "target")
    return {
        # These have a value of nothing too: rows without a null, in which only times may be missing.
        "aggregate": draw.choice(("count", "count", "sum", "distinct") if counts else ("count", *others, *fitted)),
        "window": draw.choice(tuple(WINDOWS)),
        "flagged": draw.random() < 0.3,
        "of": draw.choice(("x", "x", "name", "flag")),
        "scale": draw.choice(("0.01", "0.3", "1")),
        "scaled": draw.random() < 0.5,
        "q": draw.choice(("0", "0.5", "0.9", "1")),
        "smoothing": draw.choice(("0", "0.5", "20")),
    }


def _event(draw: random.Random, name: str, entity: str, widths: Sequence[int]) -> SourceEvent:
    near = draw.choice((0, 0, *(-width for width in widths)))
    far = draw.choice((0, -1, 1, draw.randint(-DAY, DAY), draw.randint(-2 * HOUR, HOUR), draw.randint(-40 * DAY, 0)))
    due = BASE + near + far
    if draw.random() < 0.02:
        due = draw.choice((microseconds(datetime.min.replace(tzinfo=UTC)), 0, -1, BASE - 400 * DAY))
    lag = draw.choice((0, 0, 0, 1, -1, draw.randint(0, 3 * HOUR), draw.randint(0, 3 * DAY), -draw.randint(0, HOUR)))
    if due < 0:
        lag = abs(lag)
    return SourceEvent(
        name, entity, due, due + lag, draw.choice(NUMBERS), draw.choice((None, True, False)), draw.choice(NAMES)
    )


def _moments(draw: random.Random, events: Sequence[SourceEvent], widths: Sequence[int]) -> Iterator[int]:
    changes = [BASE, BASE + DAY, BASE - DAY]
    for event in events[:20]:
        changes += [event.due, event.available, event.due + draw.choice(widths), event.available + draw.choice(widths)]
    yield BASE
    for _ in range(MOMENTS - 1):
        moment = draw.choice(changes) + draw.choice((-1, 0, 0, 1, draw.randint(-HOUR, HOUR)))
        yield min(max(moment, BASE - SLACK), BASE + 60 * DAY)


def view_of(case: Case, path: str) -> FeatureViewSpec:
    """The view of a case, over a file."""

    def declared(one: Mapping[str, Any]) -> Any:
        aggregate, column = one["aggregate"], getattr(antiphon.col, one["of"])
        options: dict[str, Any] = {"window": one["window"]}
        if one["flagged"]:
            options["where"] = antiphon.col.flag
        x, scale = antiphon.col.x, {"scale": one["scale"]}
        match aggregate:
            case "count" | "frequency":
                return getattr(antiphon, aggregate)(**options)
            case "share":
                return antiphon.mean(x > 1, **options)
            case "sum" | "mean" | "std":
                return getattr(antiphon, aggregate)(x, **options, **scale)
            case "min" | "max":
                return getattr(antiphon, aggregate)(x, **options, **(scale if one["scaled"] else {}))
            case "quantile":
                return antiphon.quantile(x, q=one["q"], **options, **scale)
            case "target":
                return antiphon.target(x, smoothing=one["smoothing"], **options, **scale)
            case _:
                return getattr(antiphon, aggregate)(column, **options)

    options: dict[str, Any] = {"event_time": "due", "available_at": "seen", "event_id": "id"}
    source = Source.stream("passes", history=path, **options)
    if not case.streams:
        source = Source.table("passes", path=path, **options)
    body = {name: declared(one) for name, one in case.features.items()}
    return feature_view(entity=Entity("stop", ["stop"]), source=source)(type("Generated", (), body)).spec()
