"""From a value to its source rows, over one project: of a prediction, or of an entity at a moment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.core.errors import AntiphonError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.granted import owner_of
from antiphon.features.monitoring.skew.predictions import PredictionFeatures, on_demand_values
from antiphon.features.offline.compute import ComputeLimits
from antiphon.features.offline.lineage import Lineage, judged, trace
from antiphon.features.selection import select_features
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.skew import on_demand_of, served
from antiphon.services.project.feature_stores import FeatureStores
from antiphon.services.project.store import Store

ROWS = 20
"""Source rows that are shown of each feature; how many there are in all is always said."""


class FeatureLineage:
    """Lineage of one project's values."""

    def __init__(self, store: Store, platform: FeaturePlatform | None = None) -> None:
        self._store = store
        self._platform = platform

    def of_prediction(
        self, scope: Scope, prediction: str, feature: str | None = None, limit: int = ROWS
    ) -> tuple[Lineage, ...]:
        """One feature of a prediction, by its full name, or all of them; raises ``NotFoundError`` when there is no such
        prediction here, or it used no such feature."""
        receipt = self._store.receipts.get(scope, prediction)
        selected = [one for one in receipt.features if feature in (None, one.name)]
        if feature is not None and not selected:
            raise NotFoundError(
                f"The prediction used no feature {feature!r}.",
                where=prediction,
                next_step=f"It used {', '.join(one.name for one in receipt.features) or 'none'}.",
            )
        answered = served(self._store, receipt, on_demand_of(self._store, receipt))
        return tuple(self._of_served(scope, answered, one, limit) for one in selected)

    def of_entity(
        self, scope: Scope, feature: str, keys: Mapping[str, str], as_of: datetime | None = None, limit: int = ROWS
    ) -> Lineage:
        """Traces a feature of an entity in the current publication, now or as of a moment.

        Raises:
            NotFoundError: no view of that name is applied, or it has no such feature.
            InvalidInputError: a key is missing.
            FeatureUnavailableError: the view is not published.
        """
        platform = self._platform
        serves = platform is not None and platform.serves(scope)
        selected = select_features([feature], self._store.applied.project(scope).views if serves else {}, {})
        if selected.names != (feature,) or platform is None:
            raise NotFoundError(f"{feature!r} is no feature.", where="feature", next_step="Write VIEW.FEATURE.")
        (spec,) = selected.views.values()
        moment = as_of or self._store.database.clock.now()
        vector = platform.reader(scope).read({spec.name: spec.definition_version}, keys, moment)
        value = vector.values.get(feature)
        if value is None:
            raise InvalidInputError(f"{feature} is not read as a feature of a row.", where=feature)
        read = FeatureReceipt(
            feature, value.value, None, value.definition_version, value.snapshot, value.event_time, None, "fresh",
            value.stream_offset,
        )  # fmt: skip
        entity = {key: str(keys[key]) for key in spec.entity.keys}
        return self._traced(scope, spec, read, entity, moment, None, limit)

    def _of_served(self, scope: Scope, answered: PredictionFeatures, feature: FeatureReceipt, limit: int) -> Lineage:
        view, _, name = feature.name.partition(".")
        made = next((one for one in answered.on_demand if one.name == view and name in one.features), None)
        keys, inputs, as_of = answered.keys, answered.inputs, answered.as_of
        if made is None and owner_of(view) is not None:
            return Lineage(
                feature.name, feature.definition_version, keys, as_of, feature.value, prediction=answered.prediction,
                why="it is a granted view's, whose source rows are its owner's",
            )  # fmt: skip
        if made is None:
            spec = self._store.definitions.get(scope, view, feature.definition_version)
            return self._traced(scope, spec, feature, keys, as_of, answered.prediction, limit)
        read = [one for one in answered.features if one.name in made.reads()]
        found = Lineage(
            feature.name,
            feature.definition_version,
            keys,
            as_of,
            feature.value,
            prediction=answered.prediction,
            inputs=None if inputs is None else {name: inputs[name] for name in made.inputs if name in inputs},
            reads=tuple(self._of_served(scope, answered, one, limit) for one in read),
        )
        if inputs is None or keys is None:
            return msgspec.structs.replace(found, why="what the request said was erased")
        try:
            values = {one.name: one.value for one in read}
            computed = on_demand_values(made, inputs, keys, values, as_of, ComputeLimits())
        except AntiphonError as error:
            return msgspec.structs.replace(found, why=error.what)
        return judged(found, feature, computed[name], feature.event_time)

    def _traced(
        self,
        scope: Scope,
        spec: FeatureViewSpec,
        feature: FeatureReceipt,
        keys: dict[str, str] | None,
        as_of: datetime,
        prediction: str | None,
        limit: int,
    ) -> Lineage:
        found = Lineage(
            feature.name,
            feature.definition_version,
            keys,
            as_of,
            feature.value,
            prediction=prediction,
            snapshot=feature.snapshot,
        )
        if spec.source.kind == "feast":
            return msgspec.structs.replace(found, why="it was read from Feast, which keeps no history")
        if keys is None:
            return msgspec.structs.replace(found, why="its entity was erased")
        manifest = self._store.snapshots.find(scope, feature.snapshot)
        if manifest is None and feature.snapshot:
            return msgspec.structs.replace(found, why="its snapshot is gone")
        known_by, through = None, feature.stream_offset
        if manifest is not None:
            # What the read could know: the file as of its snapshot, the log as far as snapshot and value went.
            known_by = manifest.as_of
            if spec.source.kind == "stream":
                through = max(manifest.stream_offset or 0, feature.stream_offset or 0)
        found = msgspec.structs.replace(found, known_by=known_by, through=through)
        try:
            traced = trace(
                spec, feature.name.partition(".")[2], keys, as_of, scope=scope, log=self._store.events,
                known_by=known_by, through=through, limit=limit, limits=FeatureStores(self._store).limits,
            )  # fmt: skip
        except AntiphonError as error:
            return msgspec.structs.replace(found, why=error.what)
        changed = None if manifest is None else manifest.source_hash != traced.source_hash
        found = msgspec.structs.replace(found, trace=traced, source_changed=changed)
        return judged(found, feature, traced.value, traced.event_time)
