"""Sums of charges by application, path, day and whatever else they are charged to. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.core.suggestions import nearest
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
    """

    group: dict[str, str]
    currency: str
    micros: int
    usage_micros: int
    correction_micros: int
    saved_micros: int
    answers: int


class CostSummary(msgspec.Struct, frozen=True):
    """Lines, the dearest one first, and their sum."""

    by: tuple[str, ...]
    lines: tuple[CostLine, ...]
    total: CostLine


def summarize(charges: Iterable[Charge], by: Sequence[str], currency: str) -> CostSummary:
    """Sums of charges.

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
    sums: dict[tuple[str, ...], list[int]] = {}
    whole = [0, 0, 0, 0]
    values = [DIMENSIONS[name] for name in by]
    places = {"usage": 0, "correction": 1, "saved": 2}
    for charge in charges:
        group = tuple(value(charge) for value in values)
        answers = charge.entry.quantity if charge.kind == "usage" and charge.entry.resource == "answer" else 0
        for sums_ in (sums.setdefault(group, [0, 0, 0, 0]), whole):
            sums_[places[charge.kind]] += charge.micros
            sums_[3] += answers

    def line(group: dict[str, str], parts: Sequence[int]) -> CostLine:
        usage, correction, saved, answers = parts
        return CostLine(group, currency, usage + correction, usage, correction, saved, answers)

    lines = [line(dict(zip(by, group, strict=True)), parts) for group, parts in sums.items()]
    lines.sort(key=lambda one: (-one.micros, -one.answers, *one.group.values()))
    return CostSummary(tuple(by), tuple(lines), line({}, whole))


def csv_rows(summary: CostSummary, text: Callable[[int], str]) -> list[list[Any]]:
    """The summary as rows under a head; the sum is the last one."""
    head = [*summary.by, "currency", "cost", "corrections", "saved", "answers"]
    rows = [
        [
            *(one.group.get(name, "") for name in summary.by),
            one.currency,
            text(one.micros),
            text(one.correction_micros),
            text(one.saved_micros),
            one.answers,
        ]
        for one in (*summary.lines, summary.total)
    ]
    return [head, *rows]
