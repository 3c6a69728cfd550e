"""Policies of one project, wired: who is asked what, where rows, trainings and promotions are decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from antiphon.batch.table_job import RowDecisions
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.releases.rollouts import RolloutRecord
from antiphon.core.errors import ForbiddenError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.exports import ExportWork
from antiphon.durable.run import Run
from antiphon.governance.identity.principal import Principal, orderer
from antiphon.governance.identity.provenance import IdentityProvenance
from antiphon.governance.policy.engine import Decision, Resource
from antiphon.governance.policy.request import Action, PolicyRow, application_resource
from antiphon.governance.policy.residual import RowPolicy
from antiphon.learning.datasets.rows import RowPolicyDecision
from antiphon.learning.retraining.orders import TrainingPermission
from antiphon.releases.rollout import PromotionPolicy, RolloutTransitions
from antiphon.services import workflows
from antiphon.services.project.store import Store
from antiphon.serving.disclosures import view_resource

TRAINING = "training"
"""The principal that datasets are read for: what everybody may learn from is decided about it."""


def row_decisions(store: Store) -> RowDecisions:
    """Decides about the rows of a table job: the residual as a predicate, and row by row what it leaves open.

    Rows that are let through are decided again, one by one, when they are answered.
    """

    def decide(
        scope: Scope, principal: Principal, release: Release, rows: Sequence[tuple[dict[str, str], datetime | None]]
    ) -> Sequence[Decision]:
        bundle = release.bundle
        application, now = bundle.application, store.database.clock.now()
        policy = RowPolicy(
            store.decider.decider(principal.tenant),
            principal,
            "answer",
            application_resource(application, trained_for=bundle.model.purposes),
            application.entity_keys,
            _context(store, application.purpose, scope.tenant, "batch"),
        )
        policy_rows = [PolicyRow(entity, int((moment or now).timestamp())) for entity, moment in rows]
        return policy.decide(policy_rows, recheck=False)

    return decide


def withheld(store: Store) -> RowPolicyDecision:
    """Builds the filter of what may not be learned from, by the policies in force about the action ``train``."""

    def decide(
        scope: Scope, application: str, keys: Sequence[str], rows: Sequence[tuple[Sequence[str], int]]
    ) -> tuple[str, Sequence[str | None]]:
        decider = store.decider.decider(scope.tenant)
        purpose = _purpose(store, scope, application)
        # Columns and purposes were decided when the training was ordered: here it is about rows.
        resource = Resource("application", application)
        policy = RowPolicy(decider, _training(scope), "train", resource, keys, _context(store, purpose, scope.tenant))
        policy_rows = [PolicyRow(dict(zip(keys, entity, strict=True)), moment) for entity, moment in rows]
        return decider.digest, [None if said.allowed else said.reason for said in policy.decide(policy_rows)]

    return decide


def may_train(store: Store) -> TrainingPermission:
    """Builds the check whether an application's features may be learned from, by its principal and for its purpose."""

    def ask(scope: Scope, principal: str, application: ApplicationSpec, by: Principal | None) -> None:
        store.decider.require(
            by or _training(scope),
            "train",
            application_resource(application, tenant=scope.tenant),
            _context(store, application.purpose, scope.tenant),
        )

    return ask


def promotion_policy(store: Store) -> PromotionPolicy:
    """Builds the check whether a principal may make a release reach users."""

    def ask(release: Release, passed: bool, by: Principal, reason: str, force: bool) -> None:
        application = release.bundle.application
        resource = Resource(
            "release",
            application.name,
            release.scope.tenant,
            author=release.author,
            passed=passed,
            reasoned=bool(reason.strip()),
        )
        action = "force" if force else "promote"
        said = store.decider.decide(by, action, resource, _context(store, application.purpose, release.scope.tenant))
        if not said.allowed:
            raise ForbiddenError(
                f"{by.id} ({by.role}) may not {action} release {release.number} of {application.name}, which "
                f"{release.author} made: {said.reason}.",
                where="policy",
                next_step="Let another person do it, with a reason, once its gates are passed; `antiphon policy "
                f"explain {by.id} {action} release/{application.name}` says what would have to hold.",
            )
        what = f"Release {release.number} of {application.name}"
        if by.role == "conductor":
            # Its definitions were approved with the live release: only then is there nothing for a person to approve.
            require_same_definitions(release, store.releases.live(release.scope, application.name), by, what)
            return
        IdentityProvenance(store.keys).require_another(release.scope, release.author, by, what)

    return ask


def require_same_definitions(release: Release, live: Release | None, by: Principal, what: str) -> None:
    """Refuse to let a schedule promote anything but other weights under the definitions that are live.

    Raises:
        ForbiddenError: the release differs from the live one in more than its model.
    """

    def definitions(one: Release) -> Any:
        bundle = one.bundle
        application = msgspec.structs.replace(bundle.application, model="")
        return msgspec.structs.replace(bundle, application=application, model=release.bundle.model)

    if live is None or definitions(live) != definitions(release):
        than = (
            "nothing is live"
            if live is None
            else f"its definitions are not those of release {live.number}, which is live"
        )
        raise ForbiddenError(
            f"{what} is no retraining of what is live: {than}.",
            where=by.id,
            next_step="Another person sends it on its way: `antiphon releases rollout`.",
        )


def require_cancel(store: Store, by: Principal, run: Run) -> None:
    """Let policy decide about ending a run, or queueing it again: it takes the right to order what the run does, on
    what it does it to.

    Raises:
        ForbiddenError: policy denies one of these.
    """
    for action, resource in _ordered(store, run):
        store.decider.require(by, action, resource, _context(store, "", run.scope.tenant))


def _ordered(store: Store, run: Run) -> Iterator[tuple[Action, Resource]]:
    """The actions under which a run of this workflow is ordered, and their resources."""
    match run.workflow:
        case workflows.REFRESH | workflows.BACKFILL:
            for key in run.arguments.get("views", ()):
                view = str(key).partition("@")[0]
                yield "publish", view_resource(store.applied, run.scope, view)
        case workflows.APPLY if run.arguments.get("views") or run.arguments.get("activations"):
            for key in run.arguments["views"]:
                yield "publish", view_resource(store.applied, run.scope, str(key).partition("@")[0])
            for one in run.arguments["activations"]:
                release = store.releases.get(run.scope, str(one["release"]))
                yield "release", application_resource(release.bundle.application, tenant=run.scope.tenant)
        case workflows.GATES:
            release = store.releases.get(run.scope, str(run.arguments["release"]))
            yield "release", application_resource(release.bundle.application, tenant=run.scope.tenant)
        case workflows.SKEW:
            yield "publish", Resource("view", "*", run.scope.tenant)
        case workflows.DRIFT:
            yield "train", Resource("application", "*", run.scope.tenant)
        case workflows.TRAIN:
            application = str(run.arguments.get("application", "*"))
            live = store.releases.live(run.scope, application)
            yield (
                "release",
                Resource("application", application, run.scope.tenant)
                if live is None
                else application_resource(live.bundle.application, tenant=run.scope.tenant),
            )
        case workflows.DATASET:
            application = str(run.arguments.get("spec", {}).get("application", "*"))
            yield "train", Resource("application", application, run.scope.tenant)
        case workflows.TRY | workflows.REGRESSIONS | workflows.OPTIMIZE | workflows.EVALUATE:
            yield "train", Resource("application", str(run.arguments.get("application", "*")), run.scope.tenant)
        case workflows.REBUILD:
            yield "release", Resource("model", str(run.arguments.get("model", "*")), run.scope.tenant)
        case name if name in workflows.USER_WORKFLOWS.values():
            yield "batch", Resource("workflow", str(run.arguments.get("workflow", "*")), run.scope.tenant)
        case workflows.EXPORT:
            work = msgspec.convert(run.arguments["work"], ExportWork)
            kind, name = ("view", work.name) if work.kind == "view" else ("application", work.name.partition("/")[0])
            yield "export", Resource(kind, name, run.scope.tenant)
        case workflows.TABLE_JOB | workflows.OPENAI_BATCH:
            job = store.jobs.get(run.scope, str(run.arguments.get("job") or run.arguments.get("batch")))
            yield "batch", Resource("job", job.id, run.scope.tenant, author=job.principal)
        case _:
            yield "administer", Resource("run", run.id, run.scope.tenant)


def unattended(store: Store, transitions: RolloutTransitions) -> Callable[..., RolloutRecord]:
    """``begin`` for a training that nobody watches: what it made is its orderer's, a person who promotes it in ``dev``
    only, or a schedule."""

    def begin(scope: Scope, release: str, *, principal: str, reason: str) -> RolloutRecord:
        by = orderer(principal, scope.tenant)
        return transitions.begin(scope, release, principal=principal, reason=reason, by=by)

    return begin


def _training(scope: Scope) -> Principal:
    return Principal(TRAINING, scope.tenant, "engineer", "service", "restricted")


def _context(store: Store, purpose: str, tenant: str, path: str = "") -> dict[str, Any]:
    environment = store.settings.project.environment
    return {"purpose": purpose, "environment": environment, "tenant": tenant, "path": path}


def _purpose(store: Store, scope: Scope, application: str) -> str:
    current = store.applied.current(scope)
    declared = None if current is None else current.project.applications.get(application)
    return "" if declared is None else declared.purpose
