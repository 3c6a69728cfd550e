"""Outcomes and datasets of one project, wired: who joins, who builds, who watches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.source import SourceSpec
from antiphon.features.offline.compute import ComputeLimits
from antiphon.learning.datasets.builder import DatasetBuilder
from antiphon.learning.datasets.rows import DatasetRowBuilder
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.outcomes.drift_report import DriftReader
from antiphon.learning.outcomes.drift_runs import DriftReports
from antiphon.learning.outcomes.intake import OutcomeJoiner
from antiphon.learning.outcomes.matching import OutcomeMatcher
from antiphon.learning.outcomes.monitoring import Monitor
from antiphon.learning.retraining.preferences import PreferenceReader
from antiphon.services.answering import user_functions
from antiphon.services.features.embedders import LocalEmbedders
from antiphon.services.governance.policies import withheld
from antiphon.services.project.feature_stores import FeatureStores
from antiphon.services.project.store import Store


def declared_applications(store: Store) -> Callable[[Scope, str], ApplicationSpec]:
    """Returns an application as it is applied; raises ``NotFoundError`` when none of the name is."""

    def declared(scope: Scope, name: str) -> ApplicationSpec:
        current = store.applied.current(scope)
        known = current.project.applications if current is not None else {}
        if name not in known:
            raise NotFoundError(
                f"There is no application {name!r}.",
                where="application",
                next_step=nearest(name, known, "`antiphon apply` applies those of definitions.py."),
            )
        return known[name]

    return declared


def with_history(application: ApplicationSpec, file: Path) -> ApplicationSpec:
    """The application with another file, of the same columns, in place of its first outcome's history.

    Raises:
        InvalidInputError: it declares no history, or there is no such file.
    """
    outcome = application.outcome
    if outcome is None or outcome.history is None:
        raise InvalidInputError(
            f"{application.name} declares no history whose columns the file could have.",
            where="--table",
            next_step="Declare Outcome(history=Source.table(…)), then apply.",
        )
    if not file.is_file():
        raise InvalidInputError(f"There is no file {str(file)!r}.", where="--table")
    declared = outcome.history
    history = SourceSpec(
        declared.name, "table", declared.event_time, declared.available_at, declared.event_id, str(file.resolve()),
        declared.where,
    )  # fmt: skip
    return msgspec.structs.replace(application, outcome=msgspec.structs.replace(outcome, history=history))


def outcome_joiner(store: Store) -> OutcomeJoiner:
    """Joins outcomes to this project's predictions."""
    matcher = partial(
        OutcomeMatcher,
        receipts=store.receipts,
        texts=store.blobs,
        applications=declared_applications(store),
        subject_key=store.secret("subject"),  # serving hashes entity keys by it, see ``services.answering``
        clock=store.database.clock,
    )
    return OutcomeJoiner(store.database, store.outcomes, matcher)


def dataset_builder(store: Store, limits: ComputeLimits | None = None) -> DatasetBuilder:
    """Builds datasets of this project's scope."""
    stores = FeatureStores(store)
    rows = DatasetRowBuilder(
        store.scope,
        outcomes=store.outcomes,
        receipts=store.receipts,
        texts=store.blobs,
        releases=store.releases,
        definitions=store.definitions,
        log=store.events,
        limits=limits or stores.limits,
        withheld=withheld(store),
    )
    return DatasetBuilder(rows, store.datasets, stores.lake, store.database.clock)


def preference_reader(store: Store) -> PreferenceReader:
    """Reads what people preferred in this project's scope."""
    return PreferenceReader(
        store.scope,
        outcomes=store.outcomes,
        annotations=store.annotations,
        receipts=store.receipts,
        texts=store.blobs,
        releases=store.releases,
        withheld=withheld(store),
    )


def monitor(store: Store) -> Monitor:
    """Reads how this project's applications do."""
    return Monitor(
        outcomes=store.outcomes,
        receipts=store.receipts,
        applications=declared_applications(store),
        clock=store.database.clock,
    )


def function_scorer(store: Store) -> AnswerScorer:
    """Scores answers by functions, without asking any engine."""
    return AnswerScorer(store.blobs, embedders=LocalEmbedders(), functions=user_functions(store))


def drift_reports(store: Store) -> DriftReports:
    """Compares what this project's applications are asked and answer with earlier times, and keeps what was found."""
    reader = DriftReader(
        receipts=store.receipts,
        releases=store.releases,
        datasets=store.datasets,
        applications=declared_applications(store),
        lake=FeatureStores(store).lake,
        texts=store.blobs,
        conversations=store.conversations,
        scorer=function_scorer(store),
        clock=store.database.clock,
    )
    return DriftReports(runs=store.runs, releases=store.releases, reader=reader, clock=store.database.clock)
