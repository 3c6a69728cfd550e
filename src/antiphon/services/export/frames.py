"""A project for a notebook: training sets, online vectors, published values and datasets as frames.

    with antiphon.open("mydesk") as project:
        train = project.training_set(rows, ["orders"], as_of="moment")     # pandas in, pandas out
        now = project.online([{"shop": "bakery"}], ["orders.late_share"], to="polars")

Policy decides each of them under the action ``export`` on ``view/VIEW``, and the audit log tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antiphon.core.errors import InvalidInputError, UnavailableError
from antiphon.definitions.application import Freshness
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.embedding.vector_reader import TextVector
from antiphon.features.exports.frames import from_arrow, instants, library_of, require_keys, to_arrow, with_contracts
from antiphon.features.expressions.on_demand import computed_of
from antiphon.features.freshness import SnapshotQuality
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.features.selection import ResolvedFeatures, select_features
from antiphon.features.values import FeatureValue
from antiphon.learning.datasets.reader import read_table
from antiphon.services.apply import apply as applying
from antiphon.services.export.export import published, require_rows
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.refreshing import finish_apply, refresh_now
from antiphon.services.governance.identity import at_terminal
from antiphon.services.project.store import Store

if TYPE_CHECKING:
    import pyarrow


def open_project(root: str | Path = ".") -> Project:
    """The project in a folder; close it, or use it in a ``with`` block.

    Raises:
        NotFoundError: no project there. InvalidInputError: its settings are wrong. SetupError: it cannot be opened.
    """
    return Project(Store.open(Path(root)))


class Project:
    """The applied and published features of one project, as frames."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._platform = FeaturePlatform(store)
        self._principal = at_terminal(store)

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the project's stores."""
        self._platform.close()
        self._store.close()

    @property
    def views(self) -> dict[str, FeatureViewSpec]:
        """The applied views, by name."""
        return self._store.applied.project(self._store.scope).views

    def refresh(
        self,
        *views: str,
        as_of: datetime | None = None,
        past: bool = False,
        reason: str = "asked for in Python",
    ) -> int | None:
        """Compute views anew, all by default, gate and publish them, and wait for it; the publication's number.

        Args:
            past: publish also values as of a moment of the past, where nothing newer is served.

        Raises:
            NotFoundError: no such view. InvalidInputError: the refresh failed, or the moment is past.
        """
        run = self._platform.refresh(
            self._store.scope, views=views, as_of=as_of, reason=reason, principal=self._principal.id, past=past
        )
        number = refresh_now(self._store, self._platform, run).get("publication")
        return None if number is None else int(number)

    def apply(self, reason: str = "") -> tuple[str, ...]:
        """Record `definitions.py` as `antiphon apply` does, wait until it is in force; the names of the views.

        Raises:
            InvalidDefinitionsError: every mistake of the file at once.
            InvalidInputError: a new view cannot be materialized; nothing was applied.
        """
        applied = applying.apply(self._store, principal=self._principal.id, rationale=reason)
        if applied.run is not None:
            finish_apply(self._store, applied.run, platform=self._platform)
        return tuple(self.views)

    def training_set(
        self,
        rows: Any,
        features: Sequence[str],
        *,
        as_of: str = "as_of",
        freshness: Mapping[Any, Freshness] | None = None,
        event_times: bool = False,
        purpose: str = "",
        to: str | None = None,
    ) -> Any:
        """The rows, each with its features as they were known at its own moment. Rows out are rows in, in order.

        Args:
            rows: entity keys and moments; any other column stays, and on-demand features find their inputs there. See
                ``features.frames.to_arrow`` for what it may be.
            features: ``"view"`` or ``"view.feature"``, on-demand ones as well.
            as_of: the column with each row's moment.
            freshness: view to contract: a value that its contract withholds online is null, also where ``previous`` or
                ``recompute`` falls back to withholding, or the source of the snapshot of that moment was too poor.
            event_times: also a column ``view.feature.event_time`` each.
            purpose: what for, as policies know it.
            to: ``"arrow"``, ``"pandas"`` or ``"polars"``; as the rows are, by default.

        Raises:
            NotFoundError: no such view or feature.
            ForbiddenError: policy says no, about the features or about an entity.
            InvalidInputError: a key, the moment or an input is missing or cannot be one; or the view has no history.
        """
        chosen = self._select(features)
        table = _request_table(rows, chosen)
        moments = instants(table, as_of)
        self._allow(chosen, table, moments.to_pylist(), purpose, "training set")
        joined = point_in_time(
            table,
            list(chosen.views.values()),
            scope=self._store.scope,
            log=self._store.events,
            as_of=as_of,
            event_times=True,
            embedders=self._platform.embedders if any(spec.models for spec in chosen.views.values()) else None,
        )
        contracts = {str(getattr(view, "name", view)): contract for view, contract in (freshness or {}).items()}
        joined = with_contracts(joined, moments, chosen.views, contracts, self._source_qualities)
        joined = computed_of(joined, chosen.on_demand, as_of)
        return from_arrow(_picked(joined, table, chosen, event_times), to or library_of(rows), rows)

    def online(
        self,
        rows: Any,
        features: Sequence[str],
        *,
        at: datetime | None = None,
        event_times: bool = False,
        purpose: str = "",
        to: str | None = None,
    ) -> Any:
        """The rows, each with its features as they are served now, all from one publication.

        Args:
            at: another moment than now; see ``features.lookup``.
            features, event_times, purpose, to: as in :meth:`training_set`.

        Raises:
            NotFoundError: no such view or feature.
            ForbiddenError: policy says no, about the features or about an entity.
            FeatureUnavailableError: a view is not published. UnavailableError: a store is away.
        """
        import pyarrow

        chosen = self._select(features, vectors=False)
        table = _request_table(rows, chosen)
        moment = at or self._store.database.clock.now()
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        self._allow(chosen, table, [moment] * table.num_rows, purpose, "online vectors")
        entities = _entities(table, chosen.keys)
        read = self._read(chosen, entities, moment)
        instant = pyarrow.timestamp("us", tz="UTC")
        found = table
        embedded = {f"{view}.{name}" for view, spec in chosen.vectors.items() for name in spec.models}
        for name in chosen.read:
            kind = pyarrow.list_(pyarrow.float32()) if name in embedded else None
            found = found.append_column(name, pyarrow.array([values[name].value for values in read], kind))
            times = [values[name].event_time for values in read]
            found = found.append_column(f"{name}.event_time", pyarrow.array(times, instant))
        if chosen.on_demand:
            found = found.append_column(_MOMENT, pyarrow.array([moment] * table.num_rows, instant))
            found = computed_of(found, chosen.on_demand, _MOMENT)
        return from_arrow(_picked(found, table, chosen, event_times), to or library_of(rows), rows)

    def _read(
        self, chosen: ResolvedFeatures, entities: Sequence[Mapping[str, str]], moment: datetime
    ) -> list[dict[str, FeatureValue | TextVector]]:
        """Values and vectors of each entity, all from one publication."""
        if not entities:
            return []
        versions = {view: spec.definition_version for view, spec in chosen.views.items()}
        reader = self._platform.reader(self._store.scope)
        if not chosen.vectors:
            return [{**one.values} for one in reader.read_many(versions, entities, moment)]
        minimum: int | None = None
        for _ in range(_TRIES):
            vectors = self._platform.vectors(self._store.scope).rows(chosen.vectors, entities, moment, minimum)
            plain = reader.read_many(versions, entities, moment, vectors.publication)
            if plain[0].publication == vectors.publication:
                return [{**one.values, **more} for one, more in zip(plain, vectors.entities, strict=True)]
            minimum = plain[0].publication
        raise UnavailableError(
            "Every time another publication became current before all was read.",
            where="publication",
            next_step="Try again.",
        )

    def values(self, view: str, *, snapshot: str | None = None, purpose: str = "", to: str = "arrow") -> Any:
        """Every entity's values of a published view, as ``antiphon features export`` writes them.

        Raises:
            NotFoundError: no such view, or nothing of it is published. ForbiddenError: policy says no.
        """
        what, rows = published(self._store, self._platform, view, self._principal, snapshot=snapshot, purpose=purpose)
        self._tell([view], "values", {"snapshot": what.snapshot, "purpose": purpose})
        table: pyarrow.Table = rows.reader().read_all()
        return from_arrow(table.replace_schema_metadata(what.properties), to)

    def dataset(self, dataset: str, *, purpose: str = "", to: str = "arrow") -> Any:
        """A dataset that ``antiphon datasets build`` or a training made, by its id; see ``catalog.datasets.Dataset``.

        Raises:
            NotFoundError: there is none. ForbiddenError: policy says no to one of its views, or to one of its entities.
            CorruptionError: its file is gone or is another one.
        """
        found = self._store.datasets.get(self._store.scope, dataset)
        table = read_table(found, self._platform.lake)
        moments = instants(table, "moment").to_pylist()
        for view, version in found.spec.views.items():
            spec = self._store.definitions.get(self._store.scope, view, version)
            require_rows(self._store, self._principal, spec, _entities(table, spec.entity.keys), moments, purpose)
        self._tell(list(found.spec.views), "dataset", {"dataset": found.id, "purpose": purpose})
        about = {"antiphon.dataset": found.id, "antiphon.logical_hash": found.logical_hash}
        return from_arrow(table.replace_schema_metadata(about), to)

    def _source_qualities(self, view: FeatureViewSpec) -> list[SnapshotQuality]:
        """Source qualities of the view's snapshots of this definition version."""
        manifests = self._store.snapshots.list(self._store.scope, view.name, view.definition_version, limit=100_000)
        facts = (manifest.facts() for manifest in manifests)
        return [SnapshotQuality(one.as_of, one.source_quality) for one in facts]

    def _select(self, features: Sequence[str], *, vectors: bool = True) -> ResolvedFeatures:
        if isinstance(features, str) or not features:
            raise InvalidInputError("Name features as a list of texts.", where="features")
        applied = self._store.applied.project(self._store.scope)
        return select_features(list(map(str, features)), applied.views, applied.on_demand, vectors=vectors)

    def _allow(
        self, chosen: ResolvedFeatures, table: pyarrow.Table, moments: Sequence[datetime], purpose: str, what: str
    ) -> None:
        for spec in chosen.views.values():
            require_rows(self._store, self._principal, spec, _entities(table, spec.entity.keys), moments, purpose)
        self._tell(list(chosen.views), what, {"purpose": purpose})

    def _tell(self, views: Sequence[str], what: str, more: Mapping[str, Any]) -> None:
        self._store.audit.append(
            self._store.scope, self._principal.id, "features.read", ",".join(views), {"what": what, **more}
        )


_TRIES = 5

_MOMENT = "antiphon as of"
"""A column that no frame of a user has, for the moment of an online reading."""


def _request_table(rows: Any, chosen: ResolvedFeatures) -> pyarrow.Table:
    """The rows as a table that names entities and leaves room for features."""
    table = to_arrow(rows)
    require_keys(table, chosen.keys)
    there = set(table.column_names)
    taken = [name for name in (*chosen.names, *chosen.read) if {name, f"{name}.event_time"} & there]
    if taken:
        raise InvalidInputError(f"The rows have a column {taken[0]!r} already.", where="rows")
    return table


def _entities(table: pyarrow.Table, keys: Sequence[str]) -> list[dict[str, str]]:
    columns = [table.column(key).to_pylist() for key in keys]
    return [dict(zip(keys, map(str, row), strict=True)) for row in zip(*columns, strict=True)]


def _picked(found: pyarrow.Table, given: pyarrow.Table, chosen: ResolvedFeatures, event_times: bool) -> pyarrow.Table:
    """The given columns and the features that were asked for, in their order."""
    names = [each for name in chosen.names for each in ((name, f"{name}.event_time") if event_times else (name,))]
    return found.select([*given.column_names, *names])
