"""Sums of charges by application, path, day and whatever else they are charged to. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.core.suggestions import nearest
from antiphon.operations.cost.energy import EnergyBasis, EnergyFigures, WattHours
from antiphon.operations.cost.rating import Charge

DIMENSIONS: dict[str, Callable[[Charge], str]] = {
    "month": lambda charge: f"{charge.booked:%Y-%m}",
    "day": lambda charge: f"{charge.booked:%Y-%m-%d}",
    "hour": lambda charge: f"{charge.booked:%Y-%m-%dT%H:00Z}",
    "tenant": lambda charge: charge.entry.tenant,
    "application": lambda charge: charge.entry.application,
    "release": lambda charge: charge.entry.release,
    "path": lambda charge: charge.entry.path,
    "role": lambda charge: charge.entry.role,
    "principal": lambda charge: charge.entry.principal,
    "engine": lambda charge: charge.entry.engine,
    "model": lambda charge: charge.entry.model,
    "work": lambda charge: charge.entry.work,
    "resource": lambda charge: charge.entry.resource,
    "kind": lambda charge: charge.kind,
}
"""Dimensions that charges may be summed by. The role of work that is no answer is its workflow."""


class CostLine(msgspec.Struct, frozen=True):
    """The sum of the charges of a group, in micro-units of its currency.

    Attributes:
        group: dimension to value, empty where a charge has none.
        micros: ``usage_micros`` by the prices that were known in time, and ``correction_micros``.
        saved_micros: what answers that were served again did not cost; no part of ``micros``.
        answers: their number.
        energy: the estimate of it, ``None`` where no power is declared for what was used.
    """

    group: dict[str, str]
    currency: str
    micros: int
    usage_micros: int
    correction_micros: int
    saved_micros: int
    answers: int
    energy: WattHours | None = None


class CostSummary(msgspec.Struct, frozen=True):
    """Lines, the dearest one first, and their sum; ``energy`` is the basis of its estimates, if power is declared."""

    by: tuple[str, ...]
    lines: tuple[CostLine, ...]
    total: CostLine
    energy: EnergyBasis | None = None


def summarize(
    charges: Iterable[Charge], by: Sequence[str], currency: str, energy: EnergyFigures | None = None
) -> CostSummary:
    """Sums of charges.

    Args:
        energy: declared power, by which their energy is estimated.

    Raises:
        InvalidInputError: there is no such dimension.
    """
    for name in by:
        if name not in DIMENSIONS:
            raise InvalidInputError(
                f"Costs are not summed by {name!r}.",
                where="by",
                next_step=nearest(name, DIMENSIONS, f"Name {', '.join(DIMENSIONS)}."),
            )
    values = [DIMENSIONS[name] for name in by]
    groups: dict[tuple[str, ...], list[Charge]] = {}
    for charge in charges:
        groups.setdefault(tuple(value(charge) for value in values), []).append(charge)
    lines = [_line(dict(zip(by, group, strict=True)), alike, currency, energy) for group, alike in groups.items()]
    lines.sort(key=lambda one: (-one.micros, -one.answers, *one.group.values()))
    total = _line({}, list(chain.from_iterable(groups.values())), currency, energy)
    return CostSummary(tuple(by), tuple(lines), total, None if energy is None else energy.basis)


def _line(group: dict[str, str], charges: Sequence[Charge], currency: str, energy: EnergyFigures | None) -> CostLine:
    def micros(kind: str) -> int:
        return sum(one.micros for one in charges if one.kind == kind)

    usage, correction = micros("usage"), micros("correction")
    answers = sum(one.entry.quantity for one in charges if one.kind == "usage" and one.entry.resource == "answer")
    estimate = None if energy is None else energy.sum(charges)
    return CostLine(group, currency, usage + correction, usage, correction, micros("saved"), answers, estimate)


def csv_rows(summary: CostSummary, text: Callable[[int], str], *, energy: bool = False) -> list[list[Any]]:
    """The summary as rows under a head; the sum is the last one. With ``energy`` its estimate is two columns more."""
    head = [*summary.by, "currency", "cost", "corrections", "saved", "answers"]
    head += ["estimated_watt_hours_low", "estimated_watt_hours_high"] if energy else []
    rows = [
        [
            *(one.group.get(name, "") for name in summary.by),
            one.currency,
            text(one.micros),
            text(one.correction_micros),
            text(one.saved_micros),
            one.answers,
            *(energy_cells(one) if energy else ()),
        ]
        for one in (*summary.lines, summary.total)
    ]
    return [head, *rows]


def energy_cells(line: CostLine) -> tuple[str, str]:
    """The bounds of a line's energy, in watt-hours; empty where it is not estimated."""
    return ("", "") if line.energy is None else (f"{line.energy.low:.3f}", f"{line.energy.high:.3f}")


def energy_text(summary: CostSummary) -> str:
    """The estimate of the whole, as a sentence; empty where no power is declared for what was used."""
    if summary.energy is None or summary.total.energy is None:
        return ""
    low, high = energy_cells(summary.total)
    used = ", ".join(summary.energy.resources)
    return f"Energy: {low} to {high} Wh. This is an estimate from {used}, by figures of power {summary.energy.source}."
