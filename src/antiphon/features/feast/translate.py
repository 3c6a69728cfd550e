"""Translates a Feast repository into the definitions of a project, and reports what has no counterpart and why.

Meaning is kept or told. A Feast view is the latest row of a table for each entity, so its features become ``last``
of their columns, and its ``ttl`` a freshness contract, which Antiphon applies online and in batch alike. Where the two
differ in a value (rows of one instant, a null in the latest row) a note says so, with the number of rows in the files.
"""

from __future__ import annotations

import keyword
from datetime import timedelta
from pathlib import Path

import msgspec

from antiphon.core.clock import format_duration
from antiphon.definitions.entity import snake_case
from antiphon.features.feast import on_demand
from antiphon.features.feast.on_demand import UntranslatableError
from antiphon.features.feast.repository import (
    FeastOnDemand,
    FeastRepository,
    FeastService,
    FeastSource,
    FeastView,
    Location,
)
from antiphon.features.feast.source_files import FileFacts, file_facts, pattern_of
from antiphon.features.feast.translation import (
    Translation,
    TranslationFinding,
    WrittenEntity,
    WrittenOnDemand,
    WrittenService,
    WrittenSource,
    WrittenView,
    class_name,
    entity_name,
    our_name,
    project_name,
    reachable,
)


class TranslationOptions(msgspec.Struct, frozen=True):
    """Options of the user.

    Attributes:
        online: views are read from Feast's feature server instead of from files.
        event_id: name of a push source to the column that names an event once and for all.
        available_at: whether a source's created column says when a row was known.
    """

    online: bool = False
    event_id: dict[str, str] = {}
    available_at: bool = False


def translate(
    repository: FeastRepository, root: Path, target: Path, options: TranslationOptions | None = None
) -> Translation:
    """Translate what a repository declares; nothing is written. Relative paths start at ``root``, the repository; the
    definitions will be in ``target``, a project's folder."""
    return _Translator(repository, root, target, options or TranslationOptions()).translation()


class _Translator:
    def __init__(self, repository: FeastRepository, root: Path, target: Path, options: TranslationOptions) -> None:
        self.repository = repository
        self.root = root.resolve()
        self.target = target.resolve()
        self.options = options
        self.findings: list[TranslationFinding] = []
        self.known_entities = {entity.name: entity for entity in repository.entities}
        self.known_sources = {source.name: source for source in repository.sources}
        self.entities: dict[tuple[str, ...], WrittenEntity] = {}
        self.sources: dict[str, WrittenSource | None] = {}
        self.views: dict[str, WrittenView] = {}
        self.on_demand: dict[str, WrittenOnDemand] = {}
        self.variables: set[str] = set()

    def translation(self) -> Translation:
        for unread in self.repository.unread:
            self._leave_out(unread.noun, unread.name, unread.reason, unread.at)
        for view in self.repository.views:
            self._view(view)
        for computed in self.repository.on_demand:
            self._on_demand(computed)
        services = [self._service(service) for service in self.repository.services]
        return Translation(
            project=project_name(self.repository.project),
            entities=tuple(self.entities.values()),
            sources=tuple(source for source in self.sources.values() if source is not None),
            views=tuple(self.views.values()),
            on_demand=tuple(self.on_demand.values()),
            services=tuple(service for service in services if service is not None),
            findings=tuple(sorted(self.findings, key=lambda each: (each.at, each.noun, each.name))),
        )

    def _leave_out(self, noun: str, name: str, what: str, at: Location) -> None:
        self.findings.append(TranslationFinding("left_out", noun, name, what, at))

    def _note(self, noun: str, name: str, what: str, at: Location) -> None:
        self.findings.append(TranslationFinding("note", noun, name, what, at))

    def _view(self, view: FeastView) -> None:
        name = our_name(view.name)
        try:
            self.views[name] = self._written(view, name)
        except UntranslatableError as reason:
            self._leave_out("view", view.name, str(reason), view.at)

    def _written(self, view: FeastView, name: str) -> WrittenView:
        called = class_name(name)
        if view.kind in ("LabelView", "other"):
            raise UntranslatableError(f"a {view.type} has no counterpart")
        if view.computed and not self.options.online:
            raise UntranslatableError(
                f"Feast computes it with {view.computed}; only what it stores can be read (--online)"
            )
        if not name or snake_case(called) != name:
            raise UntranslatableError("its name makes no name of ours")
        if name in self.views:
            raise UntranslatableError(f"it and another view would both be called {name}")
        if not view.online:
            self._note("view", view.name, "Feast does not serve it online; here every view is served", view.at)
        keys = self._keys(view)
        if self.options.online:
            source = WrittenSource(self._variable(f"{name}_online"), name, view=view.name)
        else:
            source = self._source(view, keys)
        features = self._features(view, keys, source)
        if not features:
            raise UntranslatableError("none of its features can be translated")
        written = WrittenView(
            class_name=called,
            name=name,
            entity=self._entity(view, keys).variable,
            source=source.variable,
            features=features,
            owner=view.owner,
            description=view.description,
            ttl=format_duration(timedelta(seconds=view.ttl)) if view.ttl > 0 else "",
            origin={
                our_name(field): field
                for field in (*(each.name for each in view.fields), *features.values())
                if our_name(field) in features
            },
        )
        if self.options.online:
            self.sources[source.variable] = source
        return written

    def _keys(self, view: FeastView) -> tuple[str, ...]:
        """The join keys of a view's entities."""
        if not view.entities:
            raise UntranslatableError("it has no entity; a view of ours is about one")
        keys: list[str] = []
        for entity in view.entities:
            known = self.known_entities.get(entity)
            if known is None:
                raise UntranslatableError(f"its entity {entity!r} is not declared in the repository")
            keys += known.join_keys
        if wrong := [key for key in keys if not key.isidentifier()]:
            raise UntranslatableError(f"the join key {wrong[0]!r} is not a column name of ours")
        return tuple(keys)

    def _entity(self, view: FeastView, keys: tuple[str, ...]) -> WrittenEntity:
        known = self.entities.get(keys)
        if known is None:
            name = entity_name([self.known_entities[entity] for entity in view.entities])
            known = self.entities[keys] = WrittenEntity(self._variable(name), name, keys)
        return known

    def _source(self, view: FeastView, keys: tuple[str, ...]) -> WrittenSource:
        source, pushed = self.known_sources.get(view.source), None
        if source is None:
            raise UntranslatableError("its source is not declared in the repository")
        if source.kind in ("push", "stream"):
            pushed, source = source, self.known_sources.get(source.batch)
            if source is None:
                raise UntranslatableError(f"its source {pushed.name!r} has no batch source to begin with")
        if source.kind != "file":
            raise UntranslatableError(
                f"its source {source.name!r} is a {source.type}, which is not read here (only Parquet and CSV files)"
            )
        name = (pushed or source).name
        if name not in self.sources:
            self.sources[name] = self._file_source(source, pushed)
        written = self.sources[name]
        if written is None:
            raise UntranslatableError(f"its source {name!r} is left out")
        if mapped := [key for key in keys if key in source.mapping.values()]:
            raise UntranslatableError(
                f"the source maps a column to the join key {mapped[0]!r}; rename the column in the file"
            )
        return written

    def _file_source(self, source: FeastSource, pushed: FeastSource | None) -> WrittenSource | None:
        name, at = (pushed or source).name, (pushed or source).at
        problem = self._source_problem(source)
        if problem is not None:
            self._leave_out("source", name, problem, at)
            return None
        event_id = self.options.event_id.get(pushed.name, "") if pushed is not None else ""
        if pushed is not None and not event_id:
            self._note(
                "source", pushed.name,
                f"it is read in batch, from {source.name!r} alone: an event of a stream has an id, and a "
                f"{pushed.type} has none (name its column with --event-id {pushed.name}=COLUMN)",
                at,
            )  # fmt: skip
        variable = self._variable(our_name(name) or our_name(Path(source.path).stem) or "source")
        return WrittenSource(
            variable=variable,
            name=variable,
            path=reachable(pattern_of(self.root, source.path), self.target),
            event_time=source.timestamp,
            event_id=event_id,
            created=source.created if self.options.available_at else "",
        )

    def _source_problem(self, source: FeastSource) -> str | None:
        if source.format:
            return f"its files are {source.format}; Parquet and CSV are read"
        if "://" in source.path and not source.path.startswith("file://"):
            return f"{source.path} is not a path on this machine"
        if not source.timestamp:
            return "it names no timestamp field"
        facts = self._facts(source)
        if facts.problem:
            return facts.problem
        columns = facts.columns
        for column in (source.timestamp, source.created if self.options.available_at else ""):
            if column and columns and column not in columns:
                return f"its files have no column {column!r}"
        return None

    def _facts(self, source: FeastSource, keys: tuple[str, ...] = (), columns: tuple[str, ...] = ()) -> FileFacts:
        return file_facts(pattern_of(self.root, source.path), source.timestamp, keys, columns)

    def _features(self, view: FeastView, keys: tuple[str, ...], written: WrittenSource) -> dict[str, str]:
        """Our feature names to columns of the source."""
        source = self._origin(view)
        unmapped = {ours: column for column, ours in source.mapping.items()} if source is not None else {}
        columns = self._facts(source).columns if source is not None and not self.options.online else {}
        fields = [(field.name, field.type) for field in view.fields]
        if not fields and source is not None:
            taken = {*keys, source.timestamp, source.created}
            fields = [(name, kind) for name, kind in columns.items() if name not in taken]
        features: dict[str, str] = {}
        for field, kind in fields:
            column = field if self.options.online else unmapped.get(field, field)
            name = our_name(field)
            full = f"{view.name}:{field}"
            if kind not in on_demand.KINDS:
                self._leave_out("feature", full, f"a {kind} is neither a number, a text nor a truth value", view.at)
            elif columns and column not in columns:
                self._leave_out("feature", full, f"the source's files have no column {column!r}", view.at)
            elif not name or keyword.iskeyword(name):
                self._leave_out("feature", full, "its name makes no name of ours", view.at)
            elif name in features:
                self._leave_out("feature", full, f"it and another feature would both be called {name}", view.at)
            elif column in (written.event_time, written.created):
                self._leave_out("feature", full, "a time column is not a feature", view.at)
            else:
                features[name] = column
                if name != field:
                    self._note("feature", full, f"it is called {name} here", view.at)
        if source is not None and features and not self.options.online:
            self._differences(view, source, keys, tuple(features.values()))
        return features

    def _origin(self, view: FeastView) -> FeastSource | None:
        source = self.known_sources.get(view.source)
        return self.known_sources.get(source.batch) if source is not None and source.batch else source

    def _differences(self, view: FeastView, source: FeastSource, keys: tuple[str, ...], read: tuple[str, ...]) -> None:
        facts = self._facts(source, keys, read)
        if facts.missing:
            self._note("view", view.name, f"its files lack {', '.join(facts.missing)}: a refresh will say so", view.at)
        if facts.ties:
            rule = f"Feast takes the last {source.created}" if source.created else "Feast takes any of them"
            self._note(
                "view", view.name,
                f"{facts.ties:,} rows share entity and event time with another: {rule}, here the greatest hash counts",
                view.at,
            )  # fmt: skip
        if facts.nulls:
            self._note(
                "view", view.name,
                f"in {facts.nulls:,} rows a feature is null: Feast serves a null of the latest row, here the latest "
                "value that is not null is served",
                view.at,
            )  # fmt: skip

    def _on_demand(self, view: FeastOnDemand) -> None:
        name = our_name(view.name)
        called = class_name(name)
        named = {field.name: our_name(field.name) for field in view.fields}
        known = {
            each.name: (each, self.views[our_name(each.name)])
            for each in self.repository.views
            if our_name(each.name) in self.views
        }
        what = ""
        if not name or snake_case(called) != name or name in self.views or name in self.on_demand:
            what = "its name makes no name of ours, or a second one"
        elif not named or not all(named.values()) or len(set(named.values())) < len(named):
            what = "a feature's name makes no name of ours"
        else:
            try:
                self.on_demand[name] = on_demand.translated(view, called, named, known, self.known_sources)
            except UntranslatableError as reason:
                function = f"its features ({', '.join(named)}) are a Python function ({view.mode})"
                what = f"{function}, and {reason}; write them as expressions"
        if what:
            return self._leave_out("on-demand view", view.name, what, view.at)
        single = ", ".join(field.name for field in view.fields if field.type == "FLOAT")
        if single:
            what = f"Feast rounds {single} to single precision, here numbers are double"
            self._note("on-demand view", view.name, what, view.at)

    def _service(self, service: FeastService) -> WrittenService | None:
        views: list[str] = []
        for use in service.uses:
            view = self.views.get(our_name(use.view)) or self.on_demand.get(our_name(use.view))
            if view is None:
                self._leave_out("service", service.name, f"{use.view!r}, which it takes, is left out", service.at)
                continue
            if isinstance(view, WrittenOnDemand):
                # An application is given what its on-demand views read as well.
                views += view.reads
            views.append(view.class_name)
            if use.features is not None and len(use.features) < len(view.features):
                what = f"it takes {len(use.features)} features of {use.view!r}; an application is given whole views"
                self._note("service", service.name, what, service.at)
        name = our_name(service.name)
        if not views or not name:
            return None
        return WrittenService(self._variable(name), service.name, tuple(dict.fromkeys(views)))

    def _variable(self, name: str) -> str:
        """A name that nothing else in the file has."""
        candidate, number = name + ("_" if keyword.iskeyword(name) else ""), 2
        taken = {*self.variables, "col", "last", "feature_view"}
        while candidate in taken:
            candidate, number = f"{name}_{number}", number + 1
        self.variables.add(candidate)
        return candidate
