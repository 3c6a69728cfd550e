"""An on-demand view of Feast as one of ours: its function's columns are expressions over features and the request."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from antiphon.features.feast.functions import Kind, Operand, Untranslatable, expressions_of
from antiphon.features.feast.repository import FeastField, FeastOnDemand, FeastSource, FeastView
from antiphon.features.feast.translation import WrittenOnDemand, WrittenView

_KINDS: dict[str, Kind] = {
    "INT32": "number", "INT64": "number", "FLOAT": "number", "DOUBLE": "number", "BOOL": "boolean", "STRING": "text",
}  # fmt: skip
_WHOLE = frozenset({"INT32", "INT64"})


def translated(
    view: FeastOnDemand,
    class_name: str,
    named: Mapping[str, str],
    views: Mapping[str, tuple[FeastView, WrittenView]],
    sources: Mapping[str, FeastSource],
) -> WrittenOnDemand:
    """The view, when everything that its function reads and does has a counterpart.

    Args:
        named: Feast's name of each of its features to ours.
        views: those that are translated, by Feast's name; ``sources`` those that are declared.

    Raises:
        Untranslatable: says what has none.
    """
    if not view.code:
        raise Untranslatable("its function is not found in the repository")
    if view.mode not in ("pandas", "python"):
        raise Untranslatable(f"its function is of the mode {view.mode}")
    inputs: dict[str, str] = {}
    operands: dict[str, Operand] = {}
    read: dict[str, str] = {}
    for source in view.sources:
        for names, operand, needs in _columns(source, views, sources):
            for name in names:
                if name in operands:
                    raise Untranslatable(f"two of its sources have a column {name!r}")
                operands[name] = operand
                read[operand.code] = needs
        if source in sources and sources[source].kind == "request":
            inputs |= {field.name: _KINDS[field.type] for field in sources[source].fields}
    made = expressions_of(view.code, operands)
    features: dict[str, str] = {}
    for field in view.fields:
        found = made.get(field.name)
        if found is None:
            raise Untranslatable(f"it does not give {field.name!r}")
        kind = _KINDS.get(field.type)
        if found.kind != kind or (field.type in _WHOLE and not found.whole):
            raise Untranslatable(f"it gives a {found.kind} as {field.name!r}, which is declared {field.type}")
        features[named[field.name]] = ast.unparse(ast.parse(found.code, mode="eval"))  # without needless parentheses
    written = " ".join(features.values())
    return WrittenOnDemand(
        class_name=class_name,
        inputs=inputs,
        features=features,
        reads=tuple(dict.fromkeys(needs for code, needs in read.items() if needs and code in written)),
    )


def _columns(
    source: str, views: Mapping[str, tuple[FeastView, WrittenView]], sources: Mapping[str, FeastSource]
) -> Iterator[tuple[tuple[str, ...], Operand, str]]:
    """Of a source: the names a column goes by in the function, what it is here, and the view it is read from."""
    if source in sources and sources[source].kind == "request":
        for field in sources[source].fields:
            if field.type not in _KINDS or not field.name.isidentifier() or field.name.lower() != field.name:
                raise Untranslatable(f"its request's {field.name!r} ({field.type}) is no input of ours")
            yield (field.name,), _operand(f"request.{field.name}", field), ""
        return
    if source not in views:
        raise Untranslatable(f"{source!r}, which it reads, is left out")
    declared, written = views[source]
    types = {field.name: field for field in declared.fields}
    for ours, original in written.origin.items():
        if original in types:
            code = f"{written.class_name}.{ours}"
            yield (original, f"{source}__{original}"), _operand(code, types[original]), written.class_name


def _operand(code: str, field: FeastField) -> Operand:
    return Operand(code, _KINDS[field.type], field.type in _WHOLE)
