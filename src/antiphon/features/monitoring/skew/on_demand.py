"""On-demand features of one prediction computed anew by SQL, the way a table of rows is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.on_demand import InputValue, OnDemandSpec
from antiphon.features.expressions.on_demand import with_on_demand
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
    """Every feature of a view as batch computes it.

    Args:
        inputs, keys: what the request said; an input named like a key is read from the entity.
        read: values of the features that the view reads, as its expressions saw them.

    Raises:
        InvalidInputError: an input or a feature is missing or of another type.
    """
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
