"""Feature views: named aggregates of a source's events about one entity.

Invariant: the definition version is a hash of what a view *means* (entity, source columns, features), so a new
path, owner, refresh interval or spelling of the same window keeps it, and anything that could change a value
changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidDefinitionsError
from antiphon.core.ids import content_hash
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.definitions.entity import NAME, Entity, EntitySpec, snake_case
from antiphon.definitions.expression import FeatureName, Term, node_of
from antiphon.definitions.feature import FITTED, FeatureDeclaration, FeatureSpec, duration_mistakes
from antiphon.definitions.nodes import ColumnNode, columns
from antiphon.definitions.place import CodeLocation, caller, declared
from antiphon.definitions.quality import WATCH_ACTIONS, Quality, QualitySpec, WatchAction, quality_mistakes, versioned
from antiphon.definitions.sensitivity import Tags, tag_mistakes, tags_of
from antiphon.definitions.source import Source, SourceSpec
from antiphon.definitions.sql_query import normal_sql

_OPTIONS = frozenset({"refresh", "owner", "sensitivity", "purposes", "quality", "embargo", "watch"})


class FeatureViewSpec(msgspec.Struct, frozen=True):
    """A declared feature view as a value. A feature's full name is ``view.feature``.

    ``refresh`` is the interval of materialization in microseconds, ``None`` when only on demand;
    ``definition_version`` is 16 hex digits. ``tags`` are the inputs of policies about each feature; without any
    declared it is empty. ``quality`` is what must hold of a snapshot before it is published, ``embargo`` how many
    microseconds it is held back after that. ``watch`` is what may be done when the values that live releases read
    are no longer distributed as in their evaluations.
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
    quality: QualitySpec | None = None
    embargo: int | None = None
    watch: WatchAction = "tell"

    @property
    def key(self) -> str:
        """``view@definition_version``: how a publication names it."""
        return f"{self.name}@{self.definition_version}"

    @property
    def models(self) -> dict[str, EmbeddingModel]:
        """The features that are vectors, each with its model."""
        return {name: feature.model for name, feature in self.features.items() if feature.model is not None}

    def columns(self) -> frozenset[str]:
        """Names of the event columns the features read, keys and times aside."""
        read = [columns(self.source.where)]
        for feature in self.features.values():
            read += [columns(feature.expression), columns(feature.where)]
        return frozenset().union(*read)


def definition_version(entity: EntitySpec, source: SourceSpec, features: dict[str, FeatureSpec]) -> str:
    """The semantic hash: 16 hex digits over everything that can change a value."""
    meaning: dict[str, Any] = {"entity": entity, "source": source.meaning(), "features": features, "rules": 1}
    if source.sql is not None:
        meaning["sql"] = normal_sql(source.sql)
        meaning["over"] = [each.meaning() for each in source.over]
    return content_hash(meaning)[:16]


class FeatureView:
    """A class decorated with :func:`feature_view`. ``Congestion.delay_2h`` is the name ``"congestion.delay_2h"``, and
    in an on-demand feature its value."""

    def __init__(
        self,
        place: CodeLocation,
        name: str,
        entity: object,
        source: object,
        options: dict[str, Any],
        body: dict[str, Any],
    ) -> None:
        self.place = place
        self.name = name
        self.entity = entity
        self.source = source
        self.options = options
        self.description = str(body.get("__doc__") or "").strip()
        self.body = {key: value for key, value in body.items() if not key.startswith("__")}
        declared(self)

    # A feature's name is also a term, and a text has other operators: hence Any.
    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self.__dict__.get("body", {}):
            return FeatureName(f"{self.name}.{name}")
        raise AttributeError(f"The view {self.__dict__.get('name')!r} has no feature {name!r}.")

    def spec(self, root: Path | None = None) -> FeatureViewSpec:
        """The frozen value; ``root`` is where a relative source path starts. Raises ``InvalidDefinitionsError`` when
        the declaration has mistakes."""
        problems = [f"{place}: {text}" for place, text in self.mistakes()]
        if problems:
            raise InvalidDefinitionsError(problems)
        entity = cast(Entity, self.entity).spec
        source = cast(Source, self.source).spec(root)
        features = {name: declaration.spec() for name, declaration in self.body.items()}
        refresh, embargo = self.options.get("refresh"), self.options.get("embargo")
        declared_quality = self.options.get("quality")
        quality = declared_quality.spec(root) if isinstance(declared_quality, Quality) else None
        return FeatureViewSpec(
            name=self.name,
            entity=entity,
            source=source,
            features=features,
            refresh=None if refresh is None else parse_duration(refresh) // timedelta(microseconds=1),
            owner=self.options.get("owner") or "",
            description=self.description,
            definition_version=versioned(definition_version(entity, source, features), quality),
            tags=tags_of(self.options, cast(Source, self.source).options, features),
            quality=quality,
            embargo=None if embargo is None else parse_duration(embargo) // timedelta(microseconds=1),
            watch=self.options.get("watch") or "tell",
        )

    def mistakes(self) -> Iterator[tuple[CodeLocation, str]]:
        """Yields the mistakes of the view and its features; entity and source are checked by themselves."""
        label = f"view {self.name!r}"
        for name in self.options.keys() - _OPTIONS:
            yield self.place, f"{label}: feature_view has no option {name!r}."
        if (watch := self.options.get("watch", "tell")) not in WATCH_ACTIONS:
            yield self.place, f"{label}: watch is {watch!r}; it is one of {', '.join(WATCH_ACTIONS)}."
        if not NAME.match(self.name):
            yield self.place, f"{label}: the class name does not make a snake_case name."
        if not isinstance(self.entity, Entity):
            yield self.place, f"{label}: entity must be an Entity, not {self.entity!r}."
        if not isinstance(self.source, Source):
            yield self.place, f"{label}: source must be a Source, not {self.source!r}."
        for option in ("refresh", "embargo"):
            if self.options.get(option) is not None:
                for text in duration_mistakes(self.options[option], f"{label}: {option}"):
                    yield self.place, text
        for text in tag_mistakes(self.options, self.body):
            yield self.place, f"{label}: {text}"
        kind = self.source.kind if isinstance(self.source, Source) else None
        for text in quality_mistakes(self.options.get("quality"), frozenset(self.body), kind == "stream"):
            yield self.place, f"{label}: {text}"
        if kind == "feast":
            for option in ("refresh", "quality", "embargo"):
                if self.options.get(option) is not None:
                    yield self.place, f"{label}: its values are Feast's, and not refreshed here; no {option}."
        if not self.body:
            yield self.place, f"{label} declares no feature."
        for name, declaration in self.body.items():
            if not isinstance(declaration, FeatureDeclaration):
                yield self.place, f"{label}: {name} = {declaration!r} is not a feature."
                continue
            if not NAME.match(name):
                yield declaration.place, f"{self.name}.{name}: a feature's name is lower-case with underscores."
            for text in (*declaration.mistakes(), *self._source_mistakes(declaration)):
                yield declaration.place, f"{self.name}.{name}: {text}"

    def _source_mistakes(self, feature: FeatureDeclaration) -> Iterator[str]:
        """Yields what a feature asks of its source that the source does not have."""
        if not isinstance(self.source, Source):
            return
        if self.source.kind == "stream" and feature.aggregation in FITTED:
            yield f"{feature.aggregation} is fitted by refreshes: read a Source.table."
        times = {self.source.options["event_time"], self.source.options["available_at"]}
        for term in (feature.expression, feature.options.get("where")):
            with suppress(TypeError):
                for column in sorted(times & columns(node_of(term))):
                    yield f"the time column {column!r} cannot be aggregated."
        if self.source.kind == "feast":
            # Feast keeps a row for each entity, so there is nothing to aggregate.
            given = [option for option in ("window", "where", "scale") if feature.options.get(option) is not None]
            plain = isinstance(feature.expression, Term) and isinstance(feature.expression.node, ColumnNode)
            if feature.aggregation != "last" or not plain or given:
                yield "a feature of Feast is last(col.NAME) and nothing more."


def feature_view(*, entity: object, source: object, **options: Any) -> Callable[[type], FeatureView]:
    """Declares a feature view: the attributes of the decorated class are its features.

    The view is named after the class, in snake case. ``View.feature`` names a feature elsewhere in the declarations.

    Args:
        entity: the :class:`Entity` the features are about; its key columns are columns of the source.
        source: the :class:`Source` whose events are aggregated.
        **options: ``refresh`` (a duration such as ``"15m"``) and ``owner``; ``sensitivity`` (one level for all, or
            feature to level: public, internal, confidential, restricted) and ``purposes`` (what the features may be
            used for), which policies decide by; ``quality``, a :class:`Quality` that every snapshot must meet;
            ``embargo``, how long a snapshot that met it is held back; ``watch``, what may be done when the values that
            live releases read drift from those of their evaluations: roll_back, hold, tell (by default) or off.

    Example::

        @feature_view(entity=origin, source=departures, refresh="15m", owner="ops")
        class Congestion:
            departures_2h = count(window="2h")
            delay_2h = mean(col.dep_delay, window="2h", scale="0.01")
    """
    place = caller()

    def declare(body: type) -> FeatureView:
        return FeatureView(place, snake_case(body.__name__), entity, source, options, dict(vars(body)))

    return declare
