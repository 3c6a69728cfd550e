"""Feature views: named aggregates of a source's events about one entity.

Invariant: the definition version is a hash of what a view *means* (entity, source columns, features), so a new
path, owner, refresh interval or spelling of the same window keeps it, and anything that could change a value
changes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import DefinitionErrors, InvalidInput
from antiphon.core.ids import content_hash
from antiphon.definitions.entity import NAME, Entity, EntitySpec
from antiphon.definitions.expression import Column, Expression, Term, columns, kind, mistakes, node_of
from antiphon.definitions.place import Place, caller, declared
from antiphon.definitions.sensitivity import Tags, tag_mistakes, tags_of
from antiphon.definitions.source import Source, SourceSpec

Aggregation = Literal["count", "sum", "mean", "min", "max", "std", "last", "first"]
SUMMED: frozenset[str] = frozenset({"sum", "mean", "std"})
"""Aggregates that add numbers up, and so need them in fixed point."""


class FeatureSpec(msgspec.Struct, frozen=True):
    """One declared feature as a value.

    Attributes:
        expression: what is aggregated; nulls are skipped. ``None`` for ``count``, which counts events.
        where: only events for which this is true are aggregated.
        window: microseconds; the events with ``t − window < event_time ≤ t``. ``None``: all up to ``t``.
        scale: fixed-point step, a decimal such as ``"0.01"``; values are rounded to a multiple of it, half to
            even, before they are aggregated. ``None``: booleans count as 0 and 1, and ``min``, ``max``,
            ``last`` and ``first`` keep the value as it is.
    """

    aggregation: Aggregation
    expression: Expression | None
    where: Expression | None
    window: int | None
    scale: str | None


class FeatureViewSpec(msgspec.Struct, frozen=True):
    """A declared feature view as a value. A feature's full name is ``view.feature``.

    ``refresh`` is the interval of materialisation in microseconds, ``None`` when only on demand;
    ``definition_version`` is 16 hex digits. ``tags`` are what policies are told about each feature; without any
    declared it is empty.
    """

    name: str
    entity: EntitySpec
    source: SourceSpec
    features: dict[str, FeatureSpec]
    refresh: int | None
    owner: str
    description: str
    definition_version: str
    tags: dict[str, Tags] = {}

    @property
    def key(self) -> str:
        """``view@definition_version``: how a publication names it."""
        return f"{self.name}@{self.definition_version}"

    def columns(self) -> frozenset[str]:
        """Names of the event columns the features read, keys and times aside."""
        read = [columns(self.source.where)]
        for feature in self.features.values():
            read += [columns(feature.expression), columns(feature.where)]
        return frozenset().union(*read)


def definition_version(entity: EntitySpec, source: SourceSpec, features: dict[str, FeatureSpec]) -> str:
    """The semantic hash: 16 hex digits over everything that can change a value."""
    meaning = {
        "entity": entity,
        "source": msgspec.structs.replace(source, path=None),
        "features": features,
        "rules": 1,
    }
    return content_hash(meaning)[:16]


class FeatureDeclaration:
    """One feature as written, not yet checked."""

    def __init__(self, place: Place, aggregation: Aggregation, expression: object, options: dict[str, Any]) -> None:
        self.place = place
        self.aggregation = aggregation
        self.expression = expression
        self.options = options

    def spec(self) -> FeatureSpec:
        """The frozen value of a declaration without mistakes."""
        window, where, scale = (self.options.get(name) for name in ("window", "where", "scale"))
        return FeatureSpec(
            aggregation=self.aggregation,
            expression=None if self.expression is None else node_of(self.expression),
            where=None if where is None else node_of(where),
            window=None if window is None else parse_duration(window) // timedelta(microseconds=1),
            scale=None if scale is None else normal_scale(scale),
        )

    def mistakes(self) -> Iterator[str]:
        """What is wrong with the declaration, one sentence each."""
        for name in self.options.keys() - {"window", "where", "scale"}:
            yield f"{self.aggregation} has no option {name!r}; it has window, where and scale."
        window = self.options.get("window")
        if window is not None:
            yield from duration_mistakes(window, "window")
        elif "window" not in self.options and self.aggregation not in ("last", "first"):
            yield f"{self.aggregation} needs a window, such as window='2h' (or window=None for all time)."
        if self.options.get("where") is not None:
            yield from self._term_mistakes(self.options["where"], "where", condition=True)
        if self.aggregation != "count":
            yield from self._term_mistakes(self.expression, self.aggregation, condition=False)
        yield from self._scale_mistakes()

    def _term_mistakes(self, term: object, label: str, *, condition: bool) -> Iterator[str]:
        try:
            node = node_of(term)
        except TypeError as error:
            yield f"{label}: {error}"
            return
        found = kind(node)
        if found == "null" or (condition and found in ("number", "text")):
            yield f"{label}: {'a condition' if condition else 'a value'} is needed, not a {found}."
        if not condition and found == "text" and self.aggregation not in ("last", "first"):
            yield f"{label}: a text cannot be aggregated so; use last or first."
        for mistake in mistakes(node):
            yield f"{label}: {mistake}"

    def _scale_mistakes(self) -> Iterator[str]:
        scale = self.options.get("scale")
        if scale is not None:
            try:
                normal_scale(scale)
            except InvalidInput as error:
                yield error.what
            if self.aggregation == "count":
                yield "count has no scale."
            return
        if self.aggregation in SUMMED:
            try:
                found = kind(node_of(self.expression))
            except TypeError:
                return  # said already
            if found in ("number", "unknown"):
                yield f"{self.aggregation} of a number needs a fixed-point scale, such as scale='0.01'."


def normal_scale(scale: object) -> str:
    """The scale in one spelling.

    Raises:
        InvalidInput: not a positive decimal text between 1e-12 and 1e12.
    """
    try:
        if not isinstance(scale, str):
            raise InvalidOperation
        number = Decimal(scale)
        if not number.is_finite() or not Decimal("1e-12") <= number <= Decimal("1e12"):
            raise InvalidOperation
    except InvalidOperation:
        raise InvalidInput(f"scale must be a positive decimal as a text, such as '0.01', not {scale!r}.") from None
    return f"{number.normalize():f}"


def duration_mistakes(text: object, label: str) -> Iterator[str]:
    """What is wrong with a duration, one sentence or none."""
    try:
        if not isinstance(text, str):
            raise InvalidInput(f"{text!r} is not a duration: write a text such as '15m'.")
        parse_duration(text)
    except InvalidInput as error:
        yield f"{label}: {error.what}"


def count(**options: Any) -> FeatureDeclaration:
    """How many events: ``count(window="2h", where=None)``. Of nothing: 0."""
    return FeatureDeclaration(caller(), "count", None, options)


def sum_(expression: object, **options: Any) -> FeatureDeclaration:
    """Their sum, ``sum(col.amount, window="7d", scale="0.01", where=None)``. Of nothing: 0."""
    return FeatureDeclaration(caller(), "sum", expression, options)


def mean(expression: object, **options: Any) -> FeatureDeclaration:
    """Their mean; of a condition the share of events that meet it. Of nothing: ``None``."""
    return FeatureDeclaration(caller(), "mean", expression, options)


def std(expression: object, **options: Any) -> FeatureDeclaration:
    """Their sample standard deviation (n − 1). Of fewer than two: ``None``."""
    return FeatureDeclaration(caller(), "std", expression, options)


def min_(expression: object, **options: Any) -> FeatureDeclaration:
    """The least. Of nothing: ``None``."""
    return FeatureDeclaration(caller(), "min", expression, options)


def max_(expression: object, **options: Any) -> FeatureDeclaration:
    """The greatest. Of nothing: ``None``."""
    return FeatureDeclaration(caller(), "max", expression, options)


def last(expression: object, **options: Any) -> FeatureDeclaration:
    """The value of the latest event that has one; of one instant, the greatest hash of the event id. Of nothing:
    ``None``."""
    return FeatureDeclaration(caller(), "last", expression, options)


def first(expression: object, **options: Any) -> FeatureDeclaration:
    """The value of the earliest event that has one. Of nothing: ``None``."""
    return FeatureDeclaration(caller(), "first", expression, options)


class FeatureView:
    """A class decorated with :func:`feature_view`. ``Congestion.delay_2h`` is the name ``"congestion.delay_2h"``."""

    def __init__(
        self, place: Place, name: str, entity: object, source: object, options: dict[str, Any], body: dict[str, Any]
    ) -> None:
        self.place = place
        self.name = name
        self.entity = entity
        self.source = source
        self.options = options
        self.description = str(body.get("__doc__") or "").strip()
        self.body = {key: value for key, value in body.items() if not key.startswith("__")}
        declared(self)

    def __getattr__(self, name: str) -> str:
        if not name.startswith("_") and name in self.__dict__.get("body", {}):
            return f"{self.name}.{name}"
        raise AttributeError(f"The view {self.__dict__.get('name')!r} has no feature {name!r}.")

    def spec(self, root: Path | None = None) -> FeatureViewSpec:
        """The frozen value; ``root`` is where a relative source path starts.

        Raises:
            DefinitionErrors: the declaration has mistakes.
        """
        problems = [f"{place}: {text}" for place, text in self.mistakes()]
        if problems:
            raise DefinitionErrors(problems)
        entity = cast(Entity, self.entity).spec
        source = cast(Source, self.source).spec(root)
        features = {name: declaration.spec() for name, declaration in self.body.items()}
        refresh = self.options.get("refresh")
        return FeatureViewSpec(
            name=self.name,
            entity=entity,
            source=source,
            features=features,
            refresh=None if refresh is None else parse_duration(refresh) // timedelta(microseconds=1),
            owner=self.options.get("owner") or "",
            description=self.description,
            definition_version=definition_version(entity, source, features),
            tags=tags_of(self.options, cast(Source, self.source).options, features),
        )

    def mistakes(self) -> Iterator[tuple[Place, str]]:
        """What is wrong with the view and its features; entity and source are checked by themselves."""
        label = f"view {self.name!r}"
        for name in self.options.keys() - {"refresh", "owner", "sensitivity", "purposes"}:
            yield self.place, f"{label}: feature_view has no option {name!r}."
        if not NAME.match(self.name):
            yield self.place, f"{label}: the class name does not make a snake_case name."
        if not isinstance(self.entity, Entity):
            yield self.place, f"{label}: entity must be an Entity, not {self.entity!r}."
        if not isinstance(self.source, Source):
            yield self.place, f"{label}: source must be a Source, not {self.source!r}."
        if self.options.get("refresh") is not None:
            for text in duration_mistakes(self.options["refresh"], f"{label}: refresh"):
                yield self.place, text
        for text in tag_mistakes(self.options, self.body):
            yield self.place, f"{label}: {text}"
        if not self.body:
            yield self.place, f"{label} declares no feature."
        for name, declaration in self.body.items():
            if not isinstance(declaration, FeatureDeclaration):
                yield self.place, f"{label}: {name} = {declaration!r} is not a feature."
                continue
            if not NAME.match(name):
                yield declaration.place, f"{self.name}.{name}: a feature's name is lower-case with underscores."
            for text in declaration.mistakes():
                yield declaration.place, f"{self.name}.{name}: {text}"
        yield from self._column_mistakes()
        if isinstance(self.source, Source) and self.source.kind == "feast":
            yield from self._feast_mistakes()

    def _feast_mistakes(self) -> Iterator[tuple[Place, str]]:
        """Feast keeps a row for each entity, so there is nothing to aggregate or to refresh."""
        if self.options.get("refresh") is not None:
            yield self.place, f"view {self.name!r}: its values are Feast's, which refreshes them; it has no refresh."
        for name, declaration in self.body.items():
            if not isinstance(declaration, FeatureDeclaration):
                continue
            given = [option for option in ("window", "where", "scale") if declaration.options.get(option) is not None]
            term = declaration.expression
            plain = isinstance(term, Term) and isinstance(term.node, Column)
            if declaration.aggregation != "last" or not plain or given:
                yield declaration.place, f"{self.name}.{name}: a feature of Feast is last(col.NAME) and nothing more."

    def _column_mistakes(self) -> Iterator[tuple[Place, str]]:
        if not isinstance(self.source, Source):
            return
        times = {self.source.options["event_time"], self.source.options["available_at"]}
        for name, declaration in self.body.items():
            if not isinstance(declaration, FeatureDeclaration):
                continue
            for term in (declaration.expression, declaration.options.get("where")):
                try:
                    read = columns(node_of(term))
                except TypeError:
                    continue
                for column in sorted(times & read):
                    yield declaration.place, f"{self.name}.{name}: the time column {column!r} cannot be aggregated."


def feature_view(*, entity: object, source: object, **options: Any) -> Callable[[type], FeatureView]:
    """Declare a view: the decorated class's attributes are its features, its snake_case name the view's.

    Args:
        entity: the :class:`Entity` the features are about; its key columns are columns of the source.
        source: the :class:`Source` whose events are aggregated.
        **options: ``refresh`` (a duration such as ``"15m"``) and ``owner``; ``sensitivity`` (one level for all, or
            feature to level: public, internal, confidential, restricted) and ``purposes`` (what the features may be
            used for), which policies decide by.
    """
    place = caller()

    def declare(body: type) -> FeatureView:
        return FeatureView(place, snake_case(body.__name__), entity, source, options, dict(vars(body)))

    return declare


def snake_case(name: str) -> str:
    """``RouteHistory`` → ``route_history``, ``HTTPLoad2h`` → ``http_load2h``."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return parted.lower()
