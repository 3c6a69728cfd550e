"""A project for a notebook: training sets, online vectors and published values as frames.

    with antiphon.open("mydesk") as project:
        train = project.training_set(rows, ["orders"], as_of="moment")     # pandas in, pandas out
        now = project.online([{"shop": "bakery"}], ["orders.late_share"], to="polars")

Policy decides each of them under the action ``export`` on ``view/VIEW``, and the audit log tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antiphon.app import apply as applying
from antiphon.app.exporting import published, require_export
from antiphon.app.features import FeaturePlatform
from antiphon.app.project import at_terminal
from antiphon.app.refreshing import refresh_now
from antiphon.app.store import Store
from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInput, NotFound
from antiphon.definitions.application import Freshness
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.frames import from_arrow, library_of, require_keys, to_arrow
from antiphon.features.point_in_time import point_in_time

if TYPE_CHECKING:
    import pyarrow


def open_project(root: str | Path = ".") -> Project:
    """The project in a folder; close it, or use it in a ``with`` block.

    Raises:
        NotFound: no project there. InvalidInput: its settings are wrong. SetupError: it cannot be opened.
    """
    return Project(Store.open(Path(root)))


class Project:
    """What is applied and published in one project, as frames."""

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
        applied = self._store.applied.current(self._store.scope)
        return dict(applied.project.views) if applied is not None else {}

    def refresh(self, *views: str, as_of: datetime | None = None, reason: str = "asked for in Python") -> int | None:
        """Compute views anew, all by default, gate and publish them, and wait for it; the publication's number.

        Raises:
            NotFound: no such view. InvalidInput: the refresh failed.
        """
        run = self._platform.refresh(
            self._store.scope, views=views, as_of=as_of, reason=reason, principal=self._principal.id
        )
        number = refresh_now(self._store, self._platform, run).get("publication")
        return None if number is None else int(number)

    def apply(self, reason: str = "") -> tuple[str, ...]:
        """Record `definitions.py` as `antiphon apply` does; the names of the views.

        Raises:
            DefinitionErrors: every mistake of the file at once.
        """
        applying.apply(self._store, principal=self._principal.id, rationale=reason)
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
            rows: entity keys and moments; any other column stays. See ``features.frames.to_arrow`` for what it may be.
            features: ``"view"`` or ``"view.feature"``.
            as_of: the column with each row's moment.
            freshness: view to contract: a value that online would not have served (``default``, ``reject``) is null.
            event_times: also a column ``view.feature.event_time`` each.
            purpose: what for, as policies know it.
            to: ``"arrow"``, ``"pandas"`` or ``"polars"``; as the rows are, by default.

        Raises:
            NotFound: no such view or feature. Forbidden: policy says no.
            InvalidInput: a key or the moment is missing or cannot be one; or the view has no history.
        """
        chosen = self._chosen(features)
        self._allow(chosen, purpose, "training set")
        table = to_arrow(rows)
        require_keys(table, sorted({key for spec in chosen.values() for key in spec.entity.keys}))
        names = [f"{view}.{name}" for view, spec in chosen.items() for name in spec.features]
        taken = [name for name in names if name in table.column_names]
        if taken:
            raise InvalidInput(f"The rows have a column {taken[0]!r} already.", where="rows")
        joined = point_in_time(
            table, list(chosen.values()), scope=self._store.scope, log=self._store.events, as_of=as_of, event_times=True
        )
        contracts = {str(getattr(view, "name", view)): contract for view, contract in (freshness or {}).items()}
        joined = _held(joined, chosen, contracts, as_of)
        if not event_times:
            joined = joined.drop_columns([f"{name}.event_time" for name in names])
        return from_arrow(joined, to or library_of(rows), rows)

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
            NotFound: no such view or feature. Forbidden: policy says no.
            FeatureUnavailable: a view is not published. Unavailable: a store is away.
        """
        import pyarrow

        chosen = self._chosen(features)
        self._allow(chosen, purpose, "online vectors")
        table = to_arrow(rows)
        keys = sorted({key for spec in chosen.values() for key in spec.entity.keys})
        require_keys(table, keys)
        columns = [table.column(key).to_pylist() for key in keys]
        asked = [dict(zip(keys, map(str, row), strict=True)) for row in zip(*columns, strict=True)]
        versions = {view: spec.definition_version for view, spec in chosen.items()}
        moment = at or self._store.database.clock.now()
        vectors = self._platform.reader(self._store.scope).read_many(versions, asked, moment) if asked else []
        for view, spec in chosen.items():
            for feature in spec.features:
                name = f"{view}.{feature}"
                table = table.append_column(name, pyarrow.array([vector.values[name].value for vector in vectors]))
                if event_times:
                    times = [vector.values[name].event_time for vector in vectors]
                    table = table.append_column(
                        f"{name}.event_time", pyarrow.array(times, pyarrow.timestamp("us", tz="UTC"))
                    )
        return from_arrow(table, to or library_of(rows), rows)

    def values(self, view: str, *, snapshot: str | None = None, purpose: str = "", to: str = "arrow") -> Any:
        """Every entity's values of a published view, as ``antiphon features export`` writes them.

        Raises:
            NotFound: no such view, or nothing of it is published. Forbidden: policy says no.
        """
        what, rows = published(self._store, self._platform, view, self._principal, snapshot=snapshot, purpose=purpose)
        self._tell([view], "values", {"snapshot": what.snapshot})
        table: pyarrow.Table = rows.reader().read_all()
        return from_arrow(table.replace_schema_metadata(what.properties), to)

    def _chosen(self, features: Sequence[str]) -> dict[str, FeatureViewSpec]:
        """Views with the features that are asked for, in their order."""
        import msgspec

        if isinstance(features, str) or not features:
            raise InvalidInput("Name features as a list of texts.", where="features")
        views = self.views
        wanted: dict[str, dict[str, Any]] = {}
        for name in features:
            view, _, feature = str(name).partition(".")
            spec = views.get(view)
            if spec is None or (feature and feature not in spec.features):
                known = ", ".join(sorted(views)) if spec is None else ", ".join(spec.features)
                raise NotFound(f"There is no {name!r}.", where="features", next_step=f"There are: {known or 'none'}.")
            wanted.setdefault(view, {}).update({feature: spec.features[feature]} if feature else spec.features)
        # What is read keeps the view's definition version: a choice of its columns means nothing else.
        return {view: msgspec.structs.replace(views[view], features=chosen) for view, chosen in wanted.items()}

    def _allow(self, chosen: Mapping[str, FeatureViewSpec], purpose: str, what: str) -> None:
        for spec in chosen.values():
            require_export(self._store, self._principal, spec, purpose)
        self._tell(list(chosen), what, {"purpose": purpose})

    def _tell(self, views: Sequence[str], what: str, more: Mapping[str, Any]) -> None:
        self._store.audit.append(
            self._store.scope, self._principal.id, "features.read", ",".join(views), {"what": what, **more}
        )


def _held(
    table: pyarrow.Table, chosen: Mapping[str, FeatureViewSpec], contracts: Mapping[str, Freshness], as_of: str
) -> pyarrow.Table:
    """The table with values null that their contract would not have let through at the row's moment."""
    import pyarrow
    import pyarrow.compute

    unknown = sorted(set(contracts) - set(chosen))
    if unknown:
        raise InvalidInput(f"No feature of {unknown[0]!r} is asked for.", where="freshness")
    instant = pyarrow.timestamp("us", tz="UTC")
    for view, contract in contracts.items():
        if contract.when_stale == "flag":
            continue
        allowed = parse_duration(contract.max_age)
        moments = _instants(table.column(as_of), instant)
        for feature in chosen[view].features:
            place = table.column_names.index(f"{view}.{feature}")
            times = table.column(f"{view}.{feature}.event_time")
            oldest = pyarrow.compute.subtract(moments, pyarrow.scalar(allowed, pyarrow.duration("us")))
            stale = pyarrow.compute.fill_null(pyarrow.compute.less(times, oldest), False)
            column = table.column(place)
            kept = pyarrow.compute.if_else(stale, pyarrow.scalar(None, column.type), column)
            table = table.set_column(place, table.schema.field(place), kept)
    return table


def _instants(column: Any, instant: Any) -> Any:
    import pyarrow

    if pyarrow.types.is_timestamp(column.type) and column.type.tz is None:
        return column.cast(pyarrow.timestamp("us")).cast(instant)
    return column.cast(instant)
