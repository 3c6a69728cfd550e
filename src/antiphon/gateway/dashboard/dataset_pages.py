"""The pages *Datasets*: what was trained and evaluated on, with what it was read from and what was made of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import get_args
from urllib.parse import urlencode

from starlette.responses import Response

from antiphon.catalog.learning.datasets import Dataset, DatasetKind
from antiphon.catalog.learning.models import ModelVersion
from antiphon.core.errors import InvalidInputError
from antiphon.gateway.dashboard.pages import PageCall, moment_of
from antiphon.gateway.dashboard.release_pages import applications

PAGE = 40
EVALUATIONS = 50
"""The latest so many evaluations on a dataset are shown."""

_KINDS: tuple[DatasetKind, ...] = get_args(DatasetKind)


def datasets(call: PageCall) -> Response:
    """Datasets, latest first; of an application or a kind, if asked for."""
    query = {name: call.query.get(name, "") for name in ("application", "kind", "before")}
    kind = next((one for one in _KINDS if one == query["kind"]), None)
    if query["kind"] and kind is None:
        raise InvalidInputError(
            f"There is no kind {query['kind']!r}.", where="kind", next_step=f"Choose one of {', '.join(_KINDS)}."
        )
    found = call.services.learning.datasets.list(
        call.scope, query["application"] or None, kind=kind, limit=PAGE + 1, before=_place(query["before"])
    )
    shown = found[:PAGE]

    def address(**changes: str) -> str:
        chosen = {name: value for name, value in (query | changes).items() if value}
        return "/datasets" + (f"?{urlencode(chosen)}" if chosen else "")

    return call.render(
        "datasets.html",
        page="datasets",
        datasets=shown,
        trained=_trained(call, sorted({one.spec.application for one in shown})),
        older=address(before=f"{shown[-1].created_at.isoformat()}~{shown[-1].id}") if len(found) > PAGE else None,
        newest=address(before="") if query["before"] else None,
        applications=applications(call),
        kinds=_KINDS,
        query=query,
    )


def dataset(call: PageCall) -> Response:
    """One dataset: its specification, sources, rows that were left out, and the models and evaluations that used it."""
    found: Dataset = call.services.learning.datasets.get(call.scope, call.path["dataset"])
    application = found.spec.application
    return call.render(
        "dataset.html",
        page="datasets",
        dataset=found,
        spec=found.spec,
        models=_trained(call, [application]).get(found.id, ()),
        evaluations=call.services.learning.evaluations.list(
            call.scope, application, limit=EVALUATIONS, dataset=found.id
        ),
    )


def _trained(call: PageCall, applications: Sequence[str]) -> dict[str, list[ModelVersion]]:
    """By dataset the models that were trained on it, or learned examples of it again."""
    found: dict[str, list[ModelVersion]] = {}
    for application in applications:
        for version in call.services.learning.registry.versions(call.scope, application):
            for used in (version.dataset, *version.replay_datasets):
                found.setdefault(used, []).append(version)
    return found


def _place(text: str) -> tuple[datetime, str] | None:
    at, _, dataset = text.partition("~")
    moment = moment_of(at)
    return None if moment is None else (moment, dataset)
