"""Whether a view's source, as it is now, has what the definition needs; without reading a row."""

from __future__ import annotations

from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.expressions.compile_sql import rows_sql
from antiphon.features.offline.compute import ComputeLimits, compute, types_of
from antiphon.features.plan import plan_of
from antiphon.features.sources.opened import opened


def require_readable(spec: FeatureViewSpec) -> None:
    """Check the columns of the source's files, and their types, against the definition. A log has none to check, a
    database is not asked: it is read as a whole or not at all; and objects are only listed.

    Raises:
        SetupError: the file is missing. InvalidInputError: it does not fit the definition.
    """
    if spec.source.path is None:
        return
    with compute(ComputeLimits()) as connection:
        rows = opened(connection, spec.source)
        assert rows is not None
        if rows.far:
            return
        rows_sql(plan_of(spec), rows.relation, types_of(connection, rows.relation))
