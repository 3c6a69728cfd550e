"""Features of one request: each value checked against its freshness contract and printed, as its receipt records."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial

import msgspec

from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.core.clock import microseconds
from antiphon.core.errors import FeaturesNotReadyError, FeatureUnavailableError
from antiphon.core.scope import Scope
from antiphon.core.telemetry import span
from antiphon.definitions.application import ApplicationSpec, Figure, Freshness
from antiphon.definitions.on_demand import InputValue
from antiphon.features.freshness import rule_of
from antiphon.features.online.remedies import SubstituteValue
from antiphon.features.values import FeatureValue, FeatureVector, MeasureValue
from antiphon.serving.features import on_demand
from antiphon.serving.features.printing import fingerprint, printed
from antiphon.serving.ports import RemedyFinder


class RequestFeatures(msgspec.Struct, frozen=True):
    """Features of one request after their contracts: what was read, and how it prints.

    Attributes:
        fingerprint: hash of the prints; two readings that print alike have the same one, and the same prompt.
    """

    publication: int | None
    features: tuple[FeatureReceipt, ...]
    prints: dict[str, str | None]
    fingerprint: str


NO_FEATURES = RequestFeatures(None, (), {}, fingerprint({}))
"""The reading of an application without features."""


def apply_contracts(
    vector: FeatureVector | None,
    application: ApplicationSpec,
    as_of: datetime,
    masked: Sequence[str] = (),
    inputs: Mapping[str, InputValue] | None = None,
    entity: Mapping[str, str] | None = None,
    remedies: Mapping[str, SubstituteValue] | None = None,
) -> RequestFeatures:
    """Check every value against its view's contract; a masked one is read as absent, whatever its contract.

    On-demand features are computed of the result; those of a dataset's row are in it already.

    Args:
        inputs, entity: of the request, for on-demand features.
        remedies: substitutes for stale values, by ``view.feature``.

    Raises:
        FeatureUnavailableError: a value violates a contract that rejects, or the entity has no features at all.
    """
    if vector is None and not application.on_demand:
        return NO_FEATURES
    figures = {figure.feature: figure for figure in application.figures}
    receipts = {} if vector is None else _held(vector, application, as_of, masked, remedies or {}, figures)
    # A count of nothing is a zero, not a feature: what makes one is an event, so nothing is known without any.
    if receipts and all(receipt.contract == "absent" or receipt.event_time is None for receipt in receipts.values()):
        raise FeatureUnavailableError(
            f"The application {application.name} has no features of the entity that was asked about.",
            where=f"application {application.name}",
            next_step="Check the entity's keys; `antiphon features list` shows what is published.",
        )
    if not has_on_demand(application, receipts):
        receipts |= on_demand.computed(
            application, receipts, inputs or {}, entity or {}, as_of, figures, partial(is_hidden, masked=masked)
        )
    prints = {name: receipts[name].printed if name in receipts else None for name in figures}
    return RequestFeatures(
        publication=vector.publication if vector is not None else None,
        features=tuple(receipts.values()),
        prints=prints,
        fingerprint=fingerprint(prints),
    )


def to_remedy(
    vector: FeatureVector, application: ApplicationSpec, as_of: datetime, masked: Sequence[str] = ()
) -> list[str]:
    """Views with a stale value whose contract asks for a substitute."""
    if vector.publication is None:
        return []
    rules = {view: rule for view, one in application.freshness.items() if (rule := rule_of(one)).substitutes}
    found: dict[str, None] = {}
    for name, value in vector.values.items() if rules else ():
        view = name.partition(".")[0]
        if view not in rules or view in found or is_hidden(name, masked):
            continue
        source = rules[view].accepts_source(_quality(vector, view))
        if rules[view].outcome(value.value, _event_time(value), microseconds(as_of), source) not in ("fresh", "absent"):
            found[view] = None
    return list(found)


def _held(
    vector: FeatureVector,
    application: ApplicationSpec,
    as_of: datetime,
    masked: Sequence[str],
    remedies: Mapping[str, SubstituteValue],
    figures: Mapping[str, Figure],
) -> dict[str, FeatureReceipt]:
    receipts: dict[str, FeatureReceipt] = {}
    for name, value in vector.values.items():
        if masked and is_hidden(name, masked):
            receipts[name] = _receipt(name, value, None, "masked", as_of)
            continue
        view = name.partition(".")[0]
        contract = application.freshness.get(view)
        if contract is not None and vector.publication is None:  # a dataset's row belongs to no snapshot
            contract = msgspec.structs.replace(contract, min_source_quality=0.0)
        quality, figure = _quality(vector, view), figures.get(name)
        receipts[name] = _judge(name, value, contract, as_of, quality, remedies.get(name), figure)
    return receipts


def has_on_demand(application: ApplicationSpec, names: Collection[str]) -> bool:
    """Tells whether every on-demand feature is among these; a dataset's row has them already."""
    return all(f"{view.name}.{name}" in names for view in application.on_demand for name in view.features)


def is_hidden(name: str, masked: Sequence[str]) -> bool:
    """Tells whether a feature is among the columns that policy hides."""
    return name in masked or f"{name.partition('.')[0]}.*" in masked


def _judge(
    name: str,
    value: FeatureValue,
    contract: Freshness | None,
    as_of: datetime,
    quality: float | None,
    remedied: SubstituteValue | None,
    figure: Figure | None,
) -> FeatureReceipt:
    rule = rule_of(contract)
    outcome = rule.outcome(value.value, _event_time(value), microseconds(as_of), rule.accepts_source(quality))
    if outcome not in ("fresh", "absent") and remedied is not None:
        return _receipt(name, remedied, remedied.value, remedied.contract, as_of, figure, remedied.quality)
    if outcome == "rejected" or (outcome == "absent" and rule.violation == "rejected"):
        absent = outcome == "absent"
        raise (FeatureUnavailableError if absent else FeaturesNotReadyError)(
            f"The feature {name} has no value." if absent else _why(name, contract, value, as_of, quality),
            where=f"feature {name}",
            next_step="See `antiphon features list` for its refresh, or relax the application's freshness contract.",
        )
    return _receipt(name, value, None if outcome == "defaulted" else value.value, outcome, as_of, figure, quality)


def _receipt(
    name: str,
    source: FeatureValue | SubstituteValue,
    value: MeasureValue,
    contract: str,
    as_of: datetime,
    figure: Figure | None = None,
    quality: float | None = None,
) -> FeatureReceipt:
    """The receipt of a feature whose contract left ``value`` of what was read from ``source``."""
    moment = source.event_time
    return FeatureReceipt(
        name=name,
        value=value,
        printed=printed(value, figure),
        definition_version=source.definition_version,
        snapshot=source.snapshot,
        event_time=moment,
        age_seconds=None if moment is None or contract == "masked" else (as_of - moment).total_seconds(),
        contract=contract,
        stream_offset=source.stream_offset,
        source_quality=quality,
    )


def _event_time(value: FeatureValue) -> int | None:
    return None if value.event_time is None else microseconds(value.event_time)


def _quality(vector: FeatureVector, view: str) -> float | None:
    facts = vector.facts.get(view)
    return None if facts is None else facts.source_quality


def _why(name: str, contract: Freshness | None, value: FeatureValue, as_of: datetime, quality: float | None) -> str:
    assert contract is not None
    age = 0.0 if value.event_time is None else (as_of - value.event_time).total_seconds()
    if age * 1e6 > rule_of(contract).max_age:
        return f"The feature {name} is {age:.0f} s old, its contract allows {contract.max_age}."
    found = "unknown" if quality is None else f"{quality:.1%}"
    return f"The quality of the source of {name} is {found}, its contract asks for {contract.min_source_quality:.1%}."


async def substitutes(
    find: RemedyFinder | None,
    scope: Scope,
    application: ApplicationSpec,
    vector: FeatureVector | None,
    as_of: datetime,
    entity: Mapping[str, str],
    masked: Sequence[str],
) -> dict[str, SubstituteValue]:
    """Substitutes for stale values; found in a thread, for a source or an older snapshot may be slow."""
    found: dict[str, SubstituteValue] = {}
    if vector is None or vector.publication is None or find is None:
        return found
    for view in to_remedy(vector, application, as_of, masked):
        with span("remedy", {"antiphon.view": view}):
            (one,) = await asyncio.to_thread(
                find,
                scope,
                (view, application.features[view]),
                [entity],
                as_of,
                application.freshness[view],
                vector.publication,
            )
        found.update(one)
    return found
