"""Checks of declared exports against the project: their places, encryption, and what policy lets schedules export."""

from __future__ import annotations

from collections.abc import Iterator

from antiphon.batch.table_files import read_files
from antiphon.core.errors import InvalidDefinitionsError
from antiphon.definitions.exports import ExportWork
from antiphon.definitions.project import ProjectSpec
from antiphon.definitions.schedules import ScheduleSpec
from antiphon.governance.identity.principal import schedule_principal
from antiphon.governance.policy.request import application_resource
from antiphon.services.batches import table_objects
from antiphon.services.export.export import encrypted, policy_question
from antiphon.services.export.targets import SUCCESS, ExportTargets
from antiphon.services.project.store import Store

_ANY_DAY = "2026-01-01"


def require_exports(store: Store, project: ProjectSpec) -> None:
    """Raises ``InvalidDefinitionsError`` with every export that cannot be made, as far as that is seen from here: a
    place that cannot be written or is not its own, a view by Feast, clear text of an encrypted project that was not
    asked for."""
    found = list(_problems(store, project))
    if found:
        raise InvalidDefinitionsError(found)


def refused_exports(store: Store, project: ProjectSpec) -> Iterator[str]:
    """Yields a sentence for each export that the policies in force do not let its schedule make."""
    scope = store.scope
    for spec, work in _exports(project):
        if work.kind == "view":
            resource, context = policy_question(store, project.views[work.name], work.purpose)
        else:
            application = project.applications[spec.application]
            resource = application_resource(application, tenant=scope.tenant)
            context = {
                "purpose": work.purpose or application.purpose, "environment": scope.environment,
                "tenant": scope.tenant, "path": "batch",
            }  # fmt: skip
        by = schedule_principal(scope.tenant, spec.name)
        said = store.decider.decide(by, "export", resource, context)
        if not said.allowed:
            yield (
                f"{spec.name}: policy does not let {by.id} ({by.role}) export {resource}: {said.reason}. It is refused "
                "until a policy permits it."
            )


def _problems(store: Store, project: ProjectSpec) -> Iterator[str]:
    sources = read_files(store.paths.root, project.views.values(), project.applications.values())
    targets = ExportTargets(store, lambda: sources, table_objects(store))
    first: dict[str, str] = {}
    for spec, work in _exports(project):
        place = work.place("version", _ANY_DAY, SUCCESS if work.is_folder else "")
        known = first.setdefault(targets.resolved(place), spec.name)
        if known != spec.name:
            yield f"schedule {spec.name!r}: to: {known!r} writes to the same place; name another one."
        view = project.views.get(work.name) if work.kind == "view" else None
        if view is not None and view.source.kind == "feast":
            yield f"schedule {spec.name!r}: {work.name!r} is read from Feast; there is nothing of it here to export."
        if store.database.codec.sealing and not work.clear:
            error = encrypted(work.to, "clear=True in its declaration")
            yield f"schedule {spec.name!r}: {error.what} {error.next_step}"
        problem = targets.problem(place)
        if problem is not None:
            yield f"schedule {spec.name!r}: to: {problem}"


def _exports(project: ProjectSpec) -> Iterator[tuple[ScheduleSpec, ExportWork]]:
    for spec in project.schedules.values():
        if isinstance(spec.work, ExportWork):
            yield spec, spec.work
