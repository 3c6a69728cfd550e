"""On-demand features of one request: its inputs checked, and the features made of them and of what was read."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import ApplicationSpec, Figure
from antiphon.definitions.on_demand import InputType, InputValue, OnDemandSpec, checked_input, defaults_of
from antiphon.features.expressions.on_demand import payload, values
from antiphon.serving.features.printing import printed


def input_types(views: Iterable[OnDemandSpec], keys: Collection[str]) -> dict[str, InputType]:
    """Types of the inputs of views; an input named like an entity key is read from the entity."""
    return {name: declared for view in views for name, declared in view.inputs.items() if name not in keys}


def checked_inputs(application: ApplicationSpec, given: Mapping[str, Any]) -> dict[str, InputValue]:
    """The inputs as their types have them; ``InvalidInputError`` names one that is missing, unknown or of another
    type."""
    types = input_types(application.on_demand, application.entity_keys)
    defaults = defaults_of(application.on_demand)
    return checked_against(types, given, f"The application {application.name!r}", defaults=defaults)


def checked_against(
    types: Mapping[str, InputType],
    given: Mapping[str, Any],
    what: str,
    where: str = "inputs",
    *,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, InputValue]:
    """Inputs as these types have them; ``what`` has them, in words, and ``where`` they stand.

    ``defaults`` stand for inputs that are left out.

    Raises:
        InvalidInputError: as :func:`checked_inputs`.
    """
    for name in given:
        if name not in types:
            near = difflib.get_close_matches(str(name), types, 1)
            raise InvalidInputError(
                f"{what} has no input {str(name)[:100]!r}.",
                where=f"{where}.{str(name)[:100]}",
                next_step=f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(types) or 'none'}.",
            )
    said = {**(defaults or {}), **given}
    for name, declared in types.items():
        if name not in said:
            raise InvalidInputError(
                f"The input {name!r} is missing.",
                where=f"{where}.{name}",
                next_step=f"Send a {declared}, or null when it is not known.",
            )
    return {name: checked_input(name, declared, said[name]) for name, declared in types.items()}


def computed(
    application: ApplicationSpec,
    read: Mapping[str, FeatureReceipt],
    inputs: Mapping[str, InputValue],
    entity: Mapping[str, str],
    as_of: datetime,
    figures: Mapping[str, Figure],
    hidden: Callable[[str], bool],
) -> dict[str, FeatureReceipt]:
    """On-demand features of values as their contracts left them; ``event_time`` is the latest of those that were read.

    Args:
        figures: by feature, for printing.
        hidden: tells whether policy masks a feature.
    """
    if not application.on_demand:
        return {}
    known = payload({**entity, **inputs}, {name: receipt.value for name, receipt in read.items()}, as_of)
    receipts: dict[str, FeatureReceipt] = {}
    for view in application.on_demand:
        for name, (value, reads) in values(view, known).items():
            times = [read[one].event_time for one in reads if one in read]
            latest = max((time for time in times if time is not None), default=None)
            masked = hidden(name)
            receipts[name] = FeatureReceipt(
                name=name,
                value=None if masked else value,
                printed=None if masked else printed(value, figures.get(name)),
                definition_version=view.definition_version,
                snapshot=None,
                event_time=latest,
                age_seconds=None if masked or latest is None else (as_of - latest).total_seconds(),
                contract="masked" if masked else "absent" if value is None else "fresh",
            )
    return receipts
