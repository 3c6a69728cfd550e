"""On-demand features: computed when something is asked, from the request, the moment and other features.

Invariant: they are expressions and nothing else, so that serving, batch and point in time compute the same value from
the same inputs. What a request must say is declared with its type; the definition version is a hash of inputs and
expressions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec

from antiphon.core.clock import utc
from antiphon.core.errors import InvalidDefinitionsError, InvalidInputError
from antiphon.core.ids import content_hash
from antiphon.definitions.entity import NAME, snake_case
from antiphon.definitions.expression import FeatureName, Term, kind, mistakes, node_of
from antiphon.definitions.functions import when
from antiphon.definitions.nodes import Expression, FeatureValueNode, RequestInputNode, Value, columns, outside
from antiphon.definitions.place import CodeLocation, caller, declared

InputType = Literal["number", "boolean", "text", "instant"]
InputValue = float | bool | str | datetime | None
LONGEST_TEXT = 10_000
"""Characters of one input."""


class Input(msgspec.Struct, frozen=True):
    """An input of a request: its type, and its default for requests that leave it out.

    Without a ``default`` a request must have it; ``None`` is a missing value.
    """

    type: InputType
    default: Any = msgspec.UNSET


class OnDemandSpec(msgspec.Struct, frozen=True):
    """A declared on-demand view as a value: what a release pins.

    Attributes:
        inputs: what a request says, by name; it may be null, which is a missing value.
        features: name to expression over inputs, ``now`` and ``view.feature`` of the application's views.
        defaults: what stands for inputs that a request leaves out; any other must be there. Unset for none, so that a
            project, a bundle and a dataset without any keep the hash that they had before there were defaults.
    """

    name: str
    inputs: dict[str, InputType]
    features: dict[str, Expression]
    description: str
    definition_version: str
    defaults: dict[str, Value] | msgspec.UnsetType = msgspec.UNSET

    def reads(self) -> frozenset[str]:
        """Full names of the features that are read."""
        return frozenset(
            found.name
            for expression in self.features.values()
            for found in outside(expression)
            if isinstance(found, FeatureValueNode)
        )


@dataclass(frozen=True, eq=False)
class OnDemandFeature:
    """One on-demand feature as written."""

    place: CodeLocation
    expression: object


def on_demand(expression: object) -> OnDemandFeature:
    """Declares a feature that is computed at the time of the request: ``on_demand(request.amount / (Spend.mean_7d +
    1))``.

    Args:
        expression: a term over ``request`` inputs, stored features (``View.feature``) and ``now``.
    """
    return OnDemandFeature(caller(), expression)


@dataclass(frozen=True, eq=False)
class OneHot:
    """A category as one feature for each of its declared values, and one for every other; see :func:`one_hot`."""

    place: CodeLocation
    expression: object
    categories: object

    def features(self, name: str) -> dict[str, OnDemandFeature]:
        """The features, each as written out: ``NAME_CATEGORY`` and ``NAME_other``."""
        categories = dict(self.categories) if isinstance(self.categories, Mapping) else {}
        if not isinstance(self.categories, Mapping) and isinstance(self.categories, Sequence):
            categories = {_suffix(value): value for value in self.categories}
        term = Term(node_of(self.expression))
        found = {
            f"{name}_{suffix}": OnDemandFeature(self.place, when(term == value).then(1).otherwise(0))
            for suffix, value in categories.items()
        }
        other = when(term.is_null() | term.is_in(list(categories.values()))).then(0).otherwise(1)
        return found | {f"{name}_other": OnDemandFeature(self.place, other)}

    def mistakes(self, name: str) -> Iterator[str]:
        """Yields the mistakes of the categories, a sentence each."""
        categories = self.categories
        values = list(categories.values()) if isinstance(categories, Mapping) else categories
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            yield f"{name}: one_hot needs its categories, such as ['AA', 'UA'] or {{'aa': 'AA'}}, not {categories!r}."
            return
        for value in values:
            if not isinstance(value, (str, int, float)):
                yield f"{name}: the category {value!r} is no text, number or boolean."
        suffixes = list(categories) if isinstance(categories, Mapping) else [_suffix(value) for value in values]
        for suffix in suffixes:
            if not isinstance(suffix, str) or suffix in ("", "other") or not NAME.match(f"{name}_{suffix}"):
                yield f"{name}: {suffix!r} makes no feature's name; write one_hot(..., {{'aa': 'AA', ...}})."
        if len(set(suffixes)) < len(suffixes) or len(set(values)) < len(values):
            yield f"{name}: one_hot names a category twice; write one_hot(..., {{'name': value, ...}})."


def one_hot(expression: object, categories: Sequence[Any] | Mapping[str, Any]) -> Any:
    """A category as numbers 0 and 1: ``carrier = one_hot(request.carrier, ["AA", "UA"])`` declares ``carrier_aa``,
    ``carrier_ua`` and ``carrier_other``.

    Any other value is ``other``; a missing one has 0 everywhere. The categories are part of the definition, so that a
    new one is a new definition version.

    Args:
        categories: the values, or feature's suffix to value where a value makes no name.
    """
    return OneHot(caller(), expression, categories)


def _suffix(value: object) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(value).lower()).strip("_")


class OnDemandView:
    """A class decorated with :func:`on_demand_view`."""

    def __init__(self, place: CodeLocation, name: str, inputs: Any, body: dict[str, Any]) -> None:
        self.place = place
        self.name = name
        self.inputs: Any = inputs
        if isinstance(inputs, Mapping):
            self.inputs = {name: one if isinstance(one, Input) else Input(one) for name, one in inputs.items()}
        self.description = str(body.get("__doc__") or "").strip()
        self.body: dict[str, Any] = {}
        self._wrong: list[tuple[CodeLocation, str]] = []
        for key, value in body.items():
            if isinstance(value, OneHot):
                wrong = list(value.mistakes(key))
                self._wrong += [(value.place, f"{name}.{text}") for text in wrong]
                self.body |= {} if wrong else value.features(key)
            elif not key.startswith("__"):
                self.body[key] = value
        declared(self)

    # A feature's name is also a term, and a text has other operators: hence Any.
    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self.__dict__.get("body", {}):
            return FeatureName(f"{self.name}.{name}")
        raise AttributeError(f"The view {self.__dict__.get('name')!r} has no feature {name!r}.")

    def spec(self) -> OnDemandSpec:
        """The frozen value; raises ``InvalidDefinitionsError`` when the declaration has mistakes."""
        problems = [f"{place}: {text}" for place, text in self.mistakes()]
        if problems:
            raise InvalidDefinitionsError(problems)
        features = {name: node_of(declaration.expression) for name, declaration in self.body.items()}
        inputs: dict[str, InputType] = {name: one.type for name, one in self.inputs.items()}
        defaults = {
            name: plain(checked_input(name, one.type, one.default))
            for name, one in self.inputs.items()
            if one.default is not msgspec.UNSET
        }
        meaning: dict[str, Any] = {"inputs": inputs, "features": features, "rules": 1}
        meaning |= {"defaults": defaults} if defaults else {}
        version = content_hash(meaning)[:16]
        return OnDemandSpec(self.name, inputs, features, self.description, version, defaults or msgspec.UNSET)

    def mistakes(self) -> Iterator[tuple[CodeLocation, str]]:
        """Yields the mistakes of the view by itself; the application checks that the features it reads exist."""
        label = f"view {self.name!r}"
        if not NAME.match(self.name):
            yield self.place, f"{label}: the class name does not make a snake_case name."
        if not isinstance(self.inputs, Mapping):
            yield self.place, f"{label}: inputs must map names to types, not {self.inputs!r}."
            return
        for name, one in self.inputs.items():
            if not isinstance(name, str) or not NAME.match(name):
                yield self.place, f"{label}: the input {name!r} is no lower-case name with underscores."
            if one.type not in get_args(InputType):
                known = ", ".join(get_args(InputType))
                yield self.place, f"{label}: the input {name!r} is of type {one.type!r}; types are {known}."
            elif one.default is not msgspec.UNSET:
                try:
                    checked_input(name, one.type, one.default)
                except InvalidInputError as error:
                    yield self.place, f"{label}, default: {error.what}"
        yield from self._wrong
        if not self.body and not self._wrong:
            yield self.place, f"{label} declares no feature."
        for name, declaration in self.body.items():
            if not isinstance(declaration, OnDemandFeature):
                yield self.place, f"{label}: {name} = {declaration!r} is no on_demand(...)."
                continue
            if not NAME.match(name):
                yield declaration.place, f"{self.name}.{name}: a feature's name is lower-case with underscores."
            for text in self._expression_mistakes(declaration.expression):
                yield declaration.place, f"{self.name}.{name}: {text}"

    def _expression_mistakes(self, expression: object) -> Iterator[str]:
        try:
            node = node_of(expression)
        except TypeError as error:
            yield str(error)
            return
        yield from mistakes(node)
        if kind(node) in ("null", "instant"):
            yield f"a number, boolean or text is needed, not {'an instant' if kind(node) == 'instant' else 'None'}."
        for column in sorted(columns(node)):
            yield f"col.{column} is a column of events; an on-demand feature reads request.{column} or other features."
        for found in outside(node):
            if isinstance(found, RequestInputNode) and found.name not in self.inputs:
                there = ", ".join(self.inputs) or "none"
                yield f"request.{found.name} is no declared input; there are {there}."
            if isinstance(found, FeatureValueNode) and found.name.partition(".")[0] == self.name:
                yield f"{found.name} is of this very view; write its expression out."


def on_demand_view(*, inputs: Mapping[str, InputType | Input]) -> Callable[[type], OnDemandView]:
    """Declares on-demand features: the decorated class's attributes, each an ``on_demand(...)``.

    Args:
        inputs: what a request says: name to ``"number"``, ``"boolean"``, ``"text"`` or ``"instant"``, or to an
            :class:`Input` with a default for requests that leave it out.
    """
    place = caller()

    def declare(body: type) -> OnDemandView:
        return OnDemandView(place, snake_case(body.__name__), inputs, dict(vars(body)))

    return declare


def defaults_of(views: Iterable[OnDemandSpec]) -> dict[str, Value]:
    """Values by name for the inputs that a request to these views leaves out."""
    return {name: value for view in views for name, value in (view.defaults or {}).items()}


def checked_input(name: str, declared_type: InputType, value: object) -> InputValue:
    """An input as its type has it: numbers as doubles, instants in UTC; raises ``InvalidInputError`` when it is of
    another type; ``where`` names it."""
    if value is None:
        return None
    if declared_type == "number" and isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):
            if math.isfinite(number := float(value)):
                return number
    elif declared_type == "boolean" and isinstance(value, bool):
        return value
    elif declared_type == "text" and isinstance(value, str):
        with suppress(UnicodeEncodeError):
            if len(value) <= LONGEST_TEXT:
                value.encode()
                return value
        raise _wrong(name, f"The input {name!r} is too long or no Unicode text.", f"At most {LONGEST_TEXT} characters.")
    elif declared_type == "instant" and isinstance(value, (str, datetime)):
        with suppress(ValueError, InvalidInputError):
            return utc(value if isinstance(value, datetime) else datetime.fromisoformat(value))
    shown = f"the {type(value).__name__} {value!r}" if isinstance(value, (bool, int, float)) else type(value).__name__
    expected = f"a{'n' * (declared_type == 'instant')} {declared_type}"
    raise _wrong(name, f"The input {name!r} must be {expected}, not {shown}.", _EXAMPLES[declared_type])


def input_of_text(declared_type: InputType, text: str) -> object:
    """Returns the input that a text of a CSV file or a command line says; checked by :func:`checked_input`."""
    if declared_type in ("text", "instant"):
        return text or None
    if not text:
        return None
    if declared_type == "boolean":
        return {"true": True, "false": False}.get(text.lower(), text)
    # As JSON writes numbers, and nothing else that float() would read.
    return float(text) if _NUMBER.fullmatch(text) else text


_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_EXAMPLES: dict[InputType, str] = {
    "number": "Send a finite number such as 12.5, or null.",
    "boolean": "Send true, false or null.",
    "text": "Send a text or null.",
    "instant": "Send ISO 8601 with an offset, such as 2013-04-01T10:00:00Z, or null.",
}


def _wrong(name: str, what: str, next_step: str) -> InvalidInputError:
    return InvalidInputError(what, where=f"inputs.{name}", next_step=next_step)


def plain(value: InputValue) -> Value:
    """An input as JSON keeps it."""
    return value.isoformat() if isinstance(value, datetime) else value
