"""Whether a view's source, as it is now, has what the definition needs; without reading a row."""

from __future__ import annotations

from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.compile_sql import rows_sql
from antiphon.features.compute import ComputeLimits, compute, files_of, relation_of, types_of
from antiphon.features.plan import plan_of


def require_readable(spec: FeatureViewSpec) -> None:
    """Check the columns of the source's file, and their types, against the definition. A log has none to check.

    Raises:
        SetupError: the file is missing. InvalidInput: it does not fit the definition.
    """
    if spec.source.path is None:
        return
    with compute(ComputeLimits()) as connection:
        relation = relation_of(files_of(spec.source.path))
        rows_sql(plan_of(spec), relation, types_of(connection, relation))
