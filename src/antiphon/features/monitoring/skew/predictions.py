"""Features of predictions: selects the values that were read online, and computes on-demand features anew by SQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import msgspec

from antiphon.catalog.features.skew_reports import Difference
from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.definitions.on_demand import InputValue, OnDemandSpec
from antiphon.definitions.sensitivity import Tags
from antiphon.features.expressions.on_demand import with_on_demand
from antiphon.features.monitoring.skew.report import SkewCounts, same, shown_value
from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.features.values import MeasureValue

_MOMENT = "antiphon_as_of"


def on_demand_values(
    spec: OnDemandSpec,
    inputs: Mapping[str, InputValue],
    keys: Mapping[str, str],
    read: Mapping[str, MeasureValue],
    as_of: datetime,
    limits: ComputeLimits,
) -> dict[str, MeasureValue]:
    """Every feature of a view as batch computes it of what the request said (an input named like a key is read from the
    entity) and of the values that the view's expressions read. Raises ``InvalidInputError`` when an input or a feature
    is missing or of another type."""
    import pyarrow

    said = {**keys, **inputs}
    instant = pyarrow.timestamp("us", tz="UTC")
    types = {"number": pyarrow.float64(), "boolean": pyarrow.bool_(), "text": pyarrow.string(), "instant": instant}
    columns: dict[str, Any] = {_MOMENT: pyarrow.array([as_of], instant)}
    try:
        for name, declared in spec.inputs.items():
            if name in said:
                columns[name] = pyarrow.array([said[name]], types[declared])
        for name in spec.reads():
            if name in read:
                columns[name] = pyarrow.array([read[name]])
    except pyarrow.ArrowException as error:
        raise InvalidInputError(
            f"An input is not of its declared type: {type(error).__name__}.", where=spec.name
        ) from error
    with compute(limits) as connection:
        table = with_on_demand(connection, pyarrow.table(columns), [spec], as_of=_MOMENT, event_times=False)
    return {name: table.column(f"{spec.name}.{name}").to_pylist()[0] for name in spec.features}


REPLACED = {
    "defaulted": "its freshness contract gave a default",
    "previous": "its freshness contract gave an earlier value",
    "recomputed": "its freshness contract had batch compute it",
}


class PredictionFeatures(msgspec.Struct, frozen=True):
    """Features of one prediction; the entity's ``keys`` and the request's ``inputs`` are ``None`` when they were
    erased. ``on_demand`` are views computed from the request, as its release pins them."""

    prediction: str
    keys: dict[str, str] | None
    as_of: datetime
    features: tuple[FeatureReceipt, ...]
    inputs: dict[str, InputValue] | None = None
    on_demand: tuple[OnDemandSpec, ...] = ()


def unusable(one: PredictionFeatures, feature: FeatureReceipt) -> str:
    """Reason for which a value of a receipt cannot be compared; empty when it can."""
    if feature.contract == "masked":
        return "policy hid it"
    if feature.contract in REPLACED:
        return REPLACED[feature.contract]
    if not feature.snapshot:
        return "it was read from a dataset"
    if one.keys is None:
        return "its entity was erased"
    return ""


def compare_on_demand(
    one: PredictionFeatures, names: Collection[str] | None, limits: ComputeLimits, counts: SkewCounts
) -> None:
    """Compare what a prediction's on-demand features were with what SQL makes of the same inputs."""
    values = {feature.name: feature for feature in one.features}
    for view in one.on_demand:
        if names is not None and view.name not in names:
            continue
        held = {name: values[f"{view.name}.{name}"] for name in view.features if f"{view.name}.{name}" in values}
        reason, computed = "", dict[str, Any]()
        if one.inputs is None or one.keys is None:
            reason = "what the request said was erased"
        else:
            try:
                read = {name: values[name].value for name in view.reads() if name in values}
                computed = on_demand_values(view, one.inputs, one.keys, read, one.as_of, limits)
            except AntiphonError as error:
                reason = error.what
        for name, feature in held.items():
            counted = counts.of(view.name, feature.definition_version, "served")
            if why := reason or ("policy hid it" if feature.contract == "masked" else ""):
                counted.pass_over([name], why)
                continue
            value = computed[name]
            difference = None if same(feature.value, value) else Difference(
                one.keys, one.as_of, shown_value(feature.value, Tags()), shown_value(value, Tags()),
                feature.event_time, feature.event_time, None, prediction=one.prediction,
            )  # fmt: skip
            counted.compared(name, difference, "request")
