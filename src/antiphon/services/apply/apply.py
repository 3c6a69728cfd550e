"""plan and apply: from ``definitions.py`` to definition versions and releases in an environment.

Invariant: whatever is answered before definitions are applied is answered all the while. Where a new definition version
takes the place of one that is published, it is materialized and published first (``services.apply.workflow``); until
then what was in force stays so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.releases.releases import Bundle, ModelPin, Release
from antiphon.core.errors import ForbiddenError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.core.suggestions import nearest
from antiphon.definitions import project as definitions
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.compatibility import Level, compare
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.governance.identity.principal import Principal
from antiphon.releases import bundle as bundles
from antiphon.services.apply.compatibility import consequences, require_unbroken, require_versioned_rubrics
from antiphon.services.apply.model_pins import pin_model, purpose_notes
from antiphon.services.apply.workflow import (
    ApplyArguments,
    ApplyResult,
    PlannedActivation,
    cancel_open,
    open_applies,
    order,
    put_in_force,
)
from antiphon.services.conducting.assets import StaleParts, newly_stale
from antiphon.services.conducting.schedule_lines import ScheduleLine, schedule_lines
from antiphon.services.engines.scaling import scaling_policy
from antiphon.services.export.checks import refused_exports, require_exports
from antiphon.services.features.feast import require_servable
from antiphon.services.learning.gate_orders import Goal
from antiphon.services.project.feature_stores import object_store
from antiphon.services.project.store import Store
from antiphon.services.rollouts import rollout_transitions

Change = Literal["new", "changed", "unchanged", "removed"]


class PlannedChange(msgspec.Struct, frozen=True):
    """The change that apply would make to one declaration; ``fields`` are those that differ. Of a view that
    is there already, ``level`` says whether its readers can go on with it, and ``sentences`` what differs."""

    noun: Literal["view", "application", "schedule", "window", "objective", "watch", "playbook"]
    name: str
    change: Change
    fields: tuple[str, ...] = ()
    level: Level | None = None
    sentences: tuple[str, ...] = ()


class PlannedMaterialization(msgspec.Struct, frozen=True):
    """A definition version that is materialized before it is served.

    ``rows`` (entities) and ``seconds`` are those of the snapshot that it takes over from; ``None``: there is none.
    """

    view: str
    definition_version: str
    rows: int | None = None
    seconds: float | None = None


class ApplyPlan(msgspec.Struct, frozen=True):
    """The difference between what is declared and what is applied.

    Attributes:
        consequences: for releases in use that pin what is declared no longer, a sentence each.
        materializes: what is published before anything goes live; until then what is live goes on answering.
        under_way: the run of an apply that has not ended; applying something else takes its place.
        missing: files that views are made from and that are not there, a sentence each.
        unread: for applications whose texts no gate reads, a sentence each.
        schedules: what the declared schedules will cause to run.
        stale: parts of assets that applying it makes stale.
        refused: for exports that policy does not let their schedules make, a sentence each.
    """

    project: str
    changes: tuple[PlannedChange, ...]
    consequences: tuple[str, ...] = ()
    materializes: tuple[PlannedMaterialization, ...] = ()
    under_way: str | None = None
    missing: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    schedules: tuple[ScheduleLine, ...] = ()
    stale: tuple[StaleParts, ...] = ()
    refused: tuple[str, ...] = ()


class ApplyReport(msgspec.Struct, frozen=True):
    """The outcome of an apply.

    Attributes:
        plan: what it carried out. ``releases``: the release that each application has of what is declared.
        activated: applications whose release went live. ``rollouts``: by application the rollout that began.
        checks: by application the durable run that holds the release against its gates and then makes it live or begins
            its rollout; until then what was live answers.
        run: the durable run that materializes what is new and then puts all of this in force; ``None``: it is.
        waiting: applications whose new release waits for a person, for a reason in ``notes``.
        notes: what the reader should know or do next, a sentence each.
    """

    plan: ApplyPlan
    releases: tuple[Release, ...]
    activated: tuple[str, ...]
    waiting: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    run: str | None = None
    checks: dict[str, str] = {}
    rollouts: dict[str, str] = {}


def plan(store: Store) -> ApplyPlan:
    """Compare the project's definitions with what is applied; nothing is changed. Raises ``InvalidDefinitionsError``
    with every mistake of ``definitions.py`` at once, and ``InvalidInputError`` for a section of ``antiphon.toml`` that
    `antiphon up` would refuse."""
    scaling_policy(store.settings)
    project, scope = _load(store), store.scope
    before, published = store.applied.project(scope).views, store.publications.snapshots(scope)
    replaced = [
        (live, application.pinned)
        for application in project.applications.values()
        if not _declares_rollout(application) and (live := store.releases.live(scope, application.name)) is not None
    ]
    keys = _unpublished(project.views, before, replaced, published)
    return ApplyPlan(
        project.name,
        _compare(store, project),
        tuple(consequences(store, project.views)),
        _foreseen(store, keys, before, published),
        under_way=next((run.id for run in open_applies(store)), None),
        missing=_find_missing_files(project),
        unread=_find_unread_texts(project),
        schedules=schedule_lines(store, scope, project),
        stale=newly_stale(store, scope, project),
        refused=tuple(refused_exports(store, project)),
    )


def apply(store: Store, *, principal: str, rationale: str = "", activate: bool | None = None) -> ApplyReport:
    """Record the definitions and make a release of every changed application.

    The release goes live once its gates passed, which the run in ``checks`` sees to; at once where it passed before or
    the application is declared ungated. Where the application declares a rollout and a release is live already, that
    begins instead. An application whose fine-tuned model is live keeps that model. Applying what is applied changes
    nothing.

    Where views must be published first, nothing is in force on return: the run that is named does the rest, in the
    worker or with ``refreshing.finish_apply``.

    Args:
        activate: make every release live, once its gates passed, past its rollout, or none and begin none; ``None`` is
            the rule above.

    Raises:
        InvalidDefinitionsError: every mistake of ``definitions.py`` at once.
        InvalidInputError: an application names a model that the engine is not given, or that is not granted.
        SetupError: its weights were not pulled.
        ForbiddenError: policy does not let this principal make its own release live, and ``activate`` insists on it.
        ConflictError: a release is to go live while a rollout compares with the one that is, or a view's source moved
            to where it does not yield what a release in use needs; nothing was applied.
    """
    project = _load(store)
    changes = _compare(store, project)
    require_unbroken(store, project.views)
    scope, why = store.scope, rationale or "applied"
    pins = {application.model: pin_model(store, application) for application in project.applications.values()}
    transitions = rollout_transitions(store)
    # Whoever can run this in the project's folder reads its secrets, and so is its administrator.
    by = Principal(principal, scope.tenant, "admin", "person", "restricted")
    releases: list[Release] = []
    activations: list[PlannedActivation] = []
    replaced: list[tuple[Release, Mapping[str, str]]] = []
    waiting: list[str] = []
    notes: list[str] = []
    with store.database.transaction() as connection:
        before = store.applied.project(scope, within=connection).views
        for application in project.applications.values():
            live = store.releases.live(scope, application.name, within=connection)
            spec, pin, said = _with_live_model(application, pins[application.model], live)
            notes += [*said, *purpose_notes(application, pin)]
            built = bundles.build(spec, pin, store.decider.digest)
            if live is not None and live.bundle == built:
                releases.append(live)  # by value: a step written as 5 is the step 5.0 that a training kept
                continue
            release = store.releases.add(built, scope, principal, why, within=connection)
            releases.append(release)
            if activate is False:
                continue
            goal: Goal = "rollout" if live is not None and not activate and _declares_rollout(application) else "live"
            if goal == "rollout" and (sentence := _held_back(store, release, connection)) is not None:
                waiting.append(application.name)
                notes.append(sentence)
                continue
            try:
                transitions.require_permission(
                    scope, application.name, release.id, reason=why, by=by, within=connection
                )
            except ForbiddenError as error:
                if activate:
                    raise
                waiting.append(application.name)
                notes.append(_for_another(release, goal, error))
                goal = "validated"
            activations.append(PlannedActivation(application.name, release.id, None if live is None else live.id, goal))
            if live is not None and goal == "live":
                replaced.append((live, spec.features))
        published = store.publications.snapshots(scope, within=connection)
        first = _unpublished(project.views, before, replaced, published)
        run: str | None = None
        done = ApplyResult(())
        if first:
            arguments = ApplyArguments(content_hash(project), first, tuple(activations), principal, why)
            run = order(store, project, arguments, connection)
        else:
            cancel_open(store, connection)
            done = put_in_force(store, project, tuple(activations), principal, why, connection)
    # Consequences are for the releases that are in use now; a run says them when it has ended.
    all_notes = (*notes, *done.notes, *(consequences(store, project.views) if run is None else ()))
    materializes = _foreseen(store, first, before, published)
    missing, unread = _find_missing_files(project), _find_unread_texts(project)
    planned = ApplyPlan(project.name, changes, materializes=materializes, missing=missing, unread=unread)
    return ApplyReport(
        planned, tuple(releases), done.activated, tuple(waiting), all_notes, run, done.checks, done.rollouts
    )


def declared_bundle(store: Store, application: str) -> tuple[Bundle, list[str]]:
    """Returns the bundle that applying the definitions now would release of an application, and notes on it; nothing is
    changed. Raises as :func:`apply`, and ``NotFoundError`` when none of the name is declared."""
    declared = _load(store).applications
    if application not in declared:
        raise NotFoundError(
            f"definitions.py declares no application {application!r}.",
            where=str(store.paths.root),
            next_step=nearest(application, declared, "`antiphon plan` lists what it declares."),
        )
    spec, live = declared[application], store.releases.live(store.scope, application)
    spec, pin, notes = _with_live_model(spec, pin_model(store, spec), live)
    return bundles.build(spec, pin, store.decider.digest), notes


def _with_live_model(
    application: ApplicationSpec, base: ModelPin, live: Release | None
) -> tuple[ApplicationSpec, ModelPin, list[str]]:
    """Returns the declared applications, each with its live fine-tuned model while that still fits."""
    tune = application.fine_tune
    if tune is None or live is None or live.bundle.model.version is None:
        return application, base, []
    before = live.bundle.application
    same = {
        "base model": before.fine_tune is not None and before.fine_tune.base == tune.base,
        "output": before.output_schema == application.output_schema,
        "outcome": before.shape == application.shape,
        "purpose": before.purpose == application.purpose,
    }
    differing = [name for name, equal in same.items() if not equal]
    train = f"`antiphon train {application.name}{'' if application.outcome else ' --preferences'}`"
    if differing:
        return application, base, [
            f"{application.name}: its {' and '.join(differing)} changed, so {live.bundle.model.name} does not fit any "
            f"more and the new release serves {base.name}. Train again: {train}."
        ]  # fmt: skip
    trained_prompt = tune.prompt or application.prompt
    kept = msgspec.structs.replace(application, model=live.bundle.model.name, prompt=trained_prompt)
    notes = []
    if before.prompt != trained_prompt:
        notes = [
            f"{application.name}: its prompt changed, and {live.bundle.model.name} was trained on another one. Its "
            f"gates show what that costs; {train} trains on the new one."
        ]
    return kept, live.bundle.model, notes


def _declares_rollout(application: ApplicationSpec) -> bool:
    plan = application.rollout
    return bool(plan.canary) or plan.shadow > 0


def _held_back(store: Store, release: Release, connection: Connection) -> str | None:
    """A sentence on the rollout of a release that no apply may begin; ``None``: it begins once its gates passed."""
    name, number = release.bundle.application.name, release.number
    if release.stage in ("shadow", "canary"):
        return f"{name}: release {number} is on its way ({release.stage}): `antiphon releases rollouts {name}`."
    if release.stage not in ("draft", "validated"):
        return (
            f"{name}: this is release {number} again, which is {release.stage}. "
            f"`antiphon releases activate {name} {release.id} --reason …` makes it live."
        )
    active = store.rollouts.active(release.scope, name, within=connection)
    if active is None:
        return None
    other = store.releases.get(release.scope, active.candidate, within=connection)
    return (
        f"{name}: release {number} ({release.stage}) waits, because the rollout of release {other.number} is under "
        f"way. Apply again when that has ended (`antiphon releases rollouts {name}`)."
    )


def _for_another(release: Release, goal: Goal, error: ForbiddenError) -> str:
    name, act = release.bundle.application.name, "makes it live"
    command = f"activate {name} {release.id} --reason …"
    if goal == "rollout":
        act, command = "begins its rollout", f"rollout {release.id}"
    return (
        f"{name}: release {release.number} is held against its gates and then waits: {error.what} Another person {act} "
        f"with `antiphon releases {command}`."
    )


def _load(store: Store) -> definitions.ProjectSpec:
    project = definitions.load(
        store.paths.root / store.settings.project.definitions,
        store.settings.project.name,
        object_store(store.settings.features),
        with_files=True,
        granted=lambda name: store.granted.view(store.scope, name),
        now=store.database.clock.now(),
    )
    require_servable(store, project)
    require_versioned_rubrics(store, project.applications.values())
    require_exports(store, project)
    return project


def _compare(store: Store, project: definitions.ProjectSpec) -> tuple[PlannedChange, ...]:
    before = store.applied.project(store.scope)
    changes: list[PlannedChange] = []
    for name, view in project.views.items():
        old = before.views.get(name)
        if old is None:
            changes.append(PlannedChange("view", name, "new"))
            continue
        found = compare(old, view)
        fields: tuple[str, ...] = () if old.definition_version == view.definition_version else ("definition",)
        change: Change = "changed" if fields else "unchanged"
        changes.append(PlannedChange("view", name, change, fields, found.level, found.sentences))
    changes += [PlannedChange("view", name, "removed") for name in before.views if name not in project.views]
    changes += _differences("application", before.applications, project.applications)
    changes += _differences("schedule", before.schedules, project.schedules)
    changes += _differences("window", before.windows, project.windows)
    changes += _differences("objective", before.objectives, project.objectives)
    changes += _differences("watch", before.watches, project.watches)
    return (*changes, *_differences("playbook", before.playbooks, project.playbooks))


def _differences(
    noun: Literal["application", "schedule", "window", "objective", "watch", "playbook"],
    before: Mapping[str, Any],
    declared: Mapping[str, Any],
) -> Iterator[PlannedChange]:
    for name, spec in declared.items():
        known = before.get(name)
        if known is None:
            yield PlannedChange(noun, name, "new")
            continue
        fields = tuple(field for field in spec.__struct_fields__ if getattr(known, field) != getattr(spec, field))
        yield PlannedChange(noun, name, "changed" if fields else "unchanged", fields)
    yield from (PlannedChange(noun, name, "removed") for name in before if name not in declared)


def _find_missing_files(project: definitions.ProjectSpec) -> tuple[str, ...]:
    return tuple(
        f"{view.name}: there is no file {path}. Nothing of this view is published until there is one."
        for view in project.views.values()
        for path in view.source.missing_paths
    )


def _find_unread_texts(project: definitions.ProjectSpec) -> tuple[str, ...]:
    return tuple(
        f"{one.name}: no guard, outcome, metric or regression set says what its text should be, so a prompt that says "
        "something else entirely passes its gates. Declare one: docs/gates.md, What is checked."
        for one in project.applications.values()
        if one.writes_free_text
        and not (one.guards or one.outcomes or one.user_metrics or one.gates.regressions)
        and not (one.ungated and one.ungated.covers(first=False))
    )


def _unpublished(
    views: Mapping[str, FeatureViewSpec],
    before: Mapping[str, FeatureViewSpec],
    replaced: Iterable[tuple[Release, Mapping[str, str]]],
    published: Mapping[str, str],
) -> tuple[str, ...]:
    """Keys of views that must be published before they take effect: otherwise something that is answered from now
    would not be answered until then.

    Args:
        views, before: what is declared, and what is in force, by name.
        replaced: each live release that is to be replaced, with the views and versions that its successor pins.
        published: the snapshots that are.
    """
    kept = {view.key for view in views.values() if view.source.kind != "feast" and view.key not in published}
    # By name, as lookups read them.
    required = {view.key for view in views.values() if view.name in before and before[view.name].key in published}
    by_feast = {name for name, view in before.items() if view.source.kind == "feast"}
    for live, features in replaced:
        pinned = live.bundle.application.own_pinned.items()
        if all(f"{view}@{version}" in published or view in by_feast for view, version in pinned):
            required |= {f"{view}@{version}" for view, version in features.items()}
    return tuple(sorted(required & kept))


def _foreseen(
    store: Store, keys: Iterable[str], before: Mapping[str, FeatureViewSpec], published: Mapping[str, str]
) -> tuple[PlannedMaterialization, ...]:
    """The materialization of some definition versions, by what that of the version in force took."""
    found = []
    for key in keys:
        view, _, version = key.partition("@")
        made = store.snapshots.find(store.scope, published.get(before[view].key) if view in before else None)
        rows, seconds = (None, None) if made is None else (made.rows_out, made.duration_seconds)
        found.append(PlannedMaterialization(view, version, rows, seconds))
    return tuple(found)
