"""What all batch work of a process shares."""

from __future__ import annotations

import msgspec

from antiphon.batch.estimates import Estimates
from antiphon.batch.gauge import Gauge
from antiphon.batch.turns import Turns
from antiphon.core.clock import Clock


class Shared(msgspec.Struct, frozen=True):
    """Turns at the engine, the gauge of what they get of it, and estimates made from that."""

    turns: Turns
    gauge: Gauge
    estimates: Estimates
    clock: Clock
