"""plan and apply: from ``definitions.py`` to definition versions and releases in an environment."""

from __future__ import annotations

from typing import Literal

import msgspec

from antiphon.app.store import Store
from antiphon.catalog.releases import ModelPin, Release
from antiphon.core.errors import InvalidInput
from antiphon.definitions import project as definitions
from antiphon.definitions.application import ApplicationSpec
from antiphon.releases import bundle as bundles

Change = Literal["new", "changed", "unchanged", "removed"]


class Planned(msgspec.Struct, frozen=True):
    """What apply would do to one view or application; ``changed`` names the fields that differ."""

    noun: Literal["view", "application"]
    name: str
    change: Change
    fields: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """The difference between what is declared and what is applied."""

    project: str
    changes: tuple[Planned, ...]


class Applied(msgspec.Struct, frozen=True):
    """What apply did: the plan it carried out and the release that each application has now."""

    plan: Plan
    releases: tuple[Release, ...]
    activated: tuple[str, ...]


def plan(store: Store) -> Plan:
    """Compare the project's definitions with what is applied; nothing is changed.

    Raises:
        DefinitionErrors: every mistake of ``definitions.py`` at once.
    """
    return _compare(store, _load(store))


def apply(store: Store, *, principal: str, rationale: str = "", activate: bool = True) -> Applied:
    """Record the definitions, make a release of every changed application, and make it live unless told not to.

    Applying what is applied changes nothing.

    Raises:
        DefinitionErrors: every mistake of ``definitions.py`` at once.
        InvalidInput: an application names a model that the engine is not given.
        SetupError: its weights were not pulled.
    """
    project = _load(store)
    planned = _compare(store, project)
    scope = store.scope
    pins = {application.model: _pin(store, application) for application in project.applications.values()}
    releases: list[Release] = []
    activated: list[str] = []
    with store.database.transaction() as connection:
        store.applied.apply(scope, project, principal=principal, within=connection)
        for application in project.applications.values():
            built = bundles.build(application, pins[application.model], store.decider.digest)
            release = store.releases.add(built, scope, principal, rationale or "applied", within=connection)
            live = store.releases.live(scope, application.name, within=connection)
            if activate and (live is None or live.id != release.id):
                store.releases.activate(
                    scope, application.name, release.id, principal, rationale or "applied", within=connection
                )
                store.audit.append(
                    scope, principal, "release.activate", release.id, {"application": application.name},
                    within=connection,
                )  # fmt: skip
                activated.append(application.name)
            releases.append(release)
    return Applied(plan=planned, releases=tuple(releases), activated=tuple(activated))


def _load(store: Store) -> definitions.ProjectSpec:
    return definitions.load(store.paths.root / store.settings.project.definitions, store.settings.project.name)


def _compare(store: Store, project: definitions.ProjectSpec) -> Plan:
    current = store.applied.current(store.scope)
    before = current.project if current is not None else definitions.ProjectSpec(project.name, {}, {}, {})
    changes: list[Planned] = []
    for name, view in project.views.items():
        old = before.views.get(name)
        fields = () if old is None or old.definition_version == view.definition_version else ("definition",)
        changes.append(Planned("view", name, "new" if old is None else "changed" if fields else "unchanged", fields))
    changes += [Planned("view", name, "removed") for name in before.views if name not in project.views]
    for name, application in project.applications.items():
        known = before.applications.get(name)
        differing = (
            ()
            if known is None
            else tuple(
                field
                for field in ApplicationSpec.__struct_fields__
                if getattr(known, field) != getattr(application, field)
            )
        )
        changes.append(
            Planned("application", name, "new" if known is None else "changed" if differing else "unchanged", differing)
        )
    changes += [
        Planned("application", name, "removed") for name in before.applications if name not in project.applications
    ]
    return Plan(project=project.name, changes=tuple(changes))


def _pin(store: Store, application: ApplicationSpec) -> ModelPin:
    engine = store.settings.engine
    if engine.kind == "remote":
        return ModelPin(application.model, None)
    if application.model not in engine.models:
        raise InvalidInput(
            f"It names the model {application.model!r}, which the engine is not given.",
            where=f"application {application.name}",
            next_step=f"Add it to [engine] models in antiphon.toml (now: {', '.join(engine.models)}).",
        )
    if engine.kind == "simulated":
        return ModelPin(application.model, None)
    from antiphon.engine import weights

    return ModelPin(application.model, weights.resolve(application.model).sha256)
