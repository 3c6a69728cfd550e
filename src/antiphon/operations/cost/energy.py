"""Energy as an interval of watt-hours, estimated from time in the ledger and declared power. Pure.

Nothing here is a measurement: a second of the ledger is some watts between a lowest and a highest figure, which the
settings declare. Both bounds are sums of the same rows, so that parts add up to their total. Time of an engine counts
where its process is ours, which its meter shows; what a server elsewhere draws is not known.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import msgspec

from antiphon.catalog.ledger import Resource
from antiphon.core.settings_costs import EnergySettings
from antiphon.operations.cost.rating import Charge

_MICROSECONDS_OF_HOUR = 3_600_000_000


class WattHours(msgspec.Struct, frozen=True):
    """An estimate: the energy lies between ``low`` and ``high`` watt-hours if the declared power is right."""

    low: float
    high: float


class EnergyBasis(msgspec.Struct, frozen=True):
    """The basis of estimates.

    Attributes:
        source: of the declared figures. resources: those that have one; all others are in no estimate.
        estimate: always true: nothing is measured.
    """

    source: str
    resources: tuple[Resource, ...]
    estimate: bool = True


class EnergyFigures:
    """Declared power by resource.

    Args:
        settings: watts as they are declared. engines: those whose process is ours.
    """

    def __init__(self, settings: EnergySettings, engines: Iterable[str]) -> None:
        self._engines = frozenset(engines)
        self._watts: dict[Resource, tuple[Fraction, Fraction]] = {}
        if settings.core_watts is not None:
            low, high = (Fraction(str(watts)) for watts in settings.core_watts)
            self._watts["training_processor"] = low, high
            if settings.engine_cores is not None:
                fewest, most = (Fraction(str(cores)) for cores in settings.engine_cores)
                self._watts["engine"] = low * fewest, high * most
        if settings.idle_watts is not None:
            low, high = (Fraction(str(watts)) for watts in settings.idle_watts)
            self._watts["engine_idle"] = low, high
        if settings.gpu_watts is not None:
            low, high = (Fraction(str(watts)) for watts in settings.gpu_watts)
            self._watts["gpu"] = low, high
        self.basis = EnergyBasis(settings.source, tuple(self._watts)) if self._watts else None

    def sum(self, charges: Iterable[Charge]) -> WattHours | None:
        """The energy of these charges' usage; ``None`` where none of them has a figure. Time that is below zero, as
        that of answers which were charged to an hour before, takes from both bounds."""
        low = high = Fraction(0)
        counted = False
        for charge in charges:
            entry = charge.entry
            watts = self._watts.get(entry.resource)
            elsewhere = entry.resource == "engine" and entry.engine not in self._engines
            if charge.kind != "usage" or watts is None or elsewhere:
                continue
            hours = Fraction(entry.quantity, _MICROSECONDS_OF_HOUR)
            low, high, counted = low + hours * watts[0], high + hours * watts[1], True
        return WattHours(float(low), float(high)) if counted else None
