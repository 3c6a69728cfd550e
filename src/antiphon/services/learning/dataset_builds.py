"""Orders of datasets that a worker builds by partition."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from antiphon.catalog.learning.datasets import DatasetSpec
from antiphon.durable.run import Run
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Resource
from antiphon.learning.datasets.partitions import WORKFLOW, DatasetArguments
from antiphon.services.project.store import Store


def order_dataset(store: Store, by: Principal, spec: DatasetSpec, every: timedelta) -> Run:
    """Queue the build of a dataset, a span of its examples' moments after the other, on record.

    Raises:
        ForbiddenError: ``by`` may not train the application.
        InvalidInputError: there are too many partitions.
    """
    scope = store.scope
    context = {"environment": scope.environment, "tenant": scope.tenant}
    store.decider.require(by, "train", Resource("application", spec.application, scope.tenant), context)
    arguments = DatasetArguments(spec, every.total_seconds(), by.id)
    partitions = len(arguments.spans)
    with store.database.transaction() as connection:
        run = store.runs.submit(scope, WORKFLOW, msgspec.to_builtins(arguments), within=connection)
        detail = {"run": run, "kind": spec.kind, "number": partitions}
        store.audit.append(scope, by.id, "dataset.build", spec.application, detail, within=connection)
        return store.runs.get(scope, run, within=connection)
