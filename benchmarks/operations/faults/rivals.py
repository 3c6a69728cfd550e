"""Rivals over the same recorded measures: threshold rules as Prometheus alerts have them, and BARO.

BARO (Pham, Ha, Zhang: *BARO: Robust Root Cause Analysis for Microservices via Multivariate Bayesian Online Change Point
Detection*, FSE 2024) is run by its authors' package ``RCAEval``. It is told the true begin of the fault, which nobody
tells the platform. It ranks measures; the component of the first is its root, and its class is the one that a fault of
such a component has in the split: what it cannot say is not held against it. It always blames something.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from benchmarks.operations import incidents as simulated

from antiphon.catalog.database import Database
from antiphon.catalog.incidents import NO_CAUSE
from antiphon.catalog.measurements import FINEST, PLATFORM, Amount, MeasurementRows, Measurements
from antiphon.operations.history.measures import MEASURES

_BEFORE, _AFTER = timedelta(minutes=5), timedelta(seconds=20)
_CHILD = Path(__file__).with_name("baro_child.py")

CLASSES: Mapping[str, str] = {
    "engine": "infrastructure", "gateway": "infrastructure", "worker": "infrastructure", "host": "infrastructure",
    "catalog": "infrastructure", "online-store": "infrastructure", "source": "data quality", "release": "change",
    "application": "overload",
}  # fmt: skip


class MeasuredCase(msgspec.Struct, frozen=True):
    """Periods of the history around a fault, the tenant's own and the platform's, and the begin of the fault."""

    periods: dict[datetime, tuple[Measurements, Measurements]]
    begun: datetime


def measured_case(database: Database, begun: datetime, seconds: float) -> MeasuredCase:
    """The history of a case, as it was recorded."""
    rows = MeasurementRows(database, "dev")
    since, until = begun - _BEFORE, begun + timedelta(seconds=seconds) + _AFTER
    own, platform = (rows.read(tenant, FINEST, since, until) for tenant in ("default", PLATFORM))
    empty = Measurements()
    return MeasuredCase(
        {at: (own.get(at, empty), platform.get(at, empty)) for at in sorted(own.keys() | platform.keys())}, begun
    )


def by_rules(case: MeasuredCase) -> str:
    """The class that threshold rules name, in the first period of the fault in which they name one."""
    for at, (own, platform) in case.periods.items():
        if at + FINEST > case.begun and (found := simulated.by_rules(own, platform)) != NO_CAUSE:
            return found
    return NO_CAUSE


def by_baro(case: MeasuredCase, python: Path) -> tuple[str, ...]:
    """The components that BARO ranks, the first one first; none where it fails."""
    columns: dict[str, list[float]] = {}
    for place, measured in enumerate(case.periods.values()):
        for part in measured:
            for (name, labels), amount in part.items():
                column = columns.setdefault(f"{_component(name, labels)}|{name}{labels}", [0.0] * len(case.periods))
                column[place] += _value(amount)
    if not columns:
        return ()
    columns["time"] = [at.timestamp() for at in case.periods]
    # A period that had begun before the fault shows it already.
    sent = json.dumps({"columns": columns, "inject_time": case.begun.timestamp() - FINEST.total_seconds()})
    done = subprocess.run([str(python), str(_CHILD)], input=sent, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"BARO failed: {done.stderr[-800:]}")
    ranked = [str(name).partition("|")[0] for name in json.loads(done.stdout) if name != "time"]
    return tuple(dict.fromkeys(ranked))[:5]


def class_of(component: str) -> str:
    """The class that a fault of a component has."""
    return CLASSES.get(component.partition("/")[0], NO_CAUSE)


def _value(amount: Amount) -> float:
    return amount.total / amount.weight if amount.weight else amount.total


_OF: Mapping[str, str] = {
    "engine": "engine/engine", "application": "application/{}", "view": "source/opened", "stream": "source/{}",
    "workflow": "worker",
}  # fmt: skip


def _component(name: str, labels: tuple[str, ...]) -> str:
    """The component that a measure is of, by its labels; the gateway's, where they name none."""
    measure = MEASURES.get(name)
    names = dict(zip(measure.labels, labels, strict=False)) if measure is not None else {}
    for label in ("engine", "view", "stream", "workflow", "application", "process"):
        if label in names:
            if label == "process":
                kind = re.split("[-@]", names[label].rpartition("/")[2])[0]
                return "engine/engine" if kind == "engine" else kind
            return _OF[label].format(names[label])
    return "gateway"
