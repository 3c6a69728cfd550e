"""The playbooks of one tenant, as commands, HTTP and pages read them and decide about their runs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.incidents import Incident
from antiphon.catalog.playbooks import PlaybookPermission, PlaybookRun, incident_of, run_id
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.reasons import require_text
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.definitions.playbooks import PlaybookSpec
from antiphon.definitions.shipped_playbooks import SHIPPED, all_playbooks
from antiphon.operations.playbooks.backtest import Backtest
from antiphon.operations.playbooks.fitting import PlaybookFit, fit
from antiphon.services.features.feature_services import FeatureRollback
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.playbooks.actions import PlaybookActions
from antiphon.services.playbooks.key_actions import aimed
from antiphon.services.playbooks.orders import approval_id, begin, order, tested, trusted, waits_for
from antiphon.services.playbooks.workflow import write_timeline
from antiphon.services.project.store import Store


class PlaybookLine(msgspec.Struct, frozen=True):
    """A playbook with what it may do.

    Attributes:
        shipped: it is the platform's; a declared one is not.
        alone: it would begin by itself now: it is declared so, and trusted.
        permission: an administrator's word, if there is one.
    """

    playbook: PlaybookSpec
    shipped: bool
    alone: bool
    backtest: Backtest
    permission: PlaybookPermission | None = None


class PlaybookRehearsal(msgspec.Struct, frozen=True):
    """A dry run: the steps with their targets, and for each why it would not be taken now (empty: it would).

    Attributes:
        waits: why its turn has not come, of a playbook that comes after another one.
    """

    playbook: str
    incident: str
    cause: str
    steps: tuple[str, ...]
    hindrances: tuple[str, ...]
    waits: str = ""


class ProjectPlaybooks:
    """The playbooks of a scope. Each decision is in the incident's timeline and the audit log in one transaction.

    Args:
        actions: for rehearsals.
    """

    def __init__(self, store: Store, scope: Scope, actions: PlaybookActions) -> None:
        self._store = store
        self._scope = scope
        self._actions = actions

    def list(self) -> tuple[PlaybookLine, ...]:
        """Every playbook, shipped or declared, by name."""
        permissions = self._store.playbook_permissions.all(self._scope)
        known = self._all()
        return tuple(self._line(one, known, permissions.get(one.name)) for one in known.values())

    def show(self, name: str) -> PlaybookLine:
        """One playbook; raises ``NotFoundError`` when there is none of this name."""
        permission = self._store.playbook_permissions.all(self._scope).get(name)
        return self._line(self.get(name), self._all(), permission)

    def get(self, name: str) -> PlaybookSpec:
        """A playbook's declaration; raises as :meth:`show`."""
        known = self._all()
        if name not in known:
            raise NotFoundError(
                f"There is no playbook {name!r}.",
                where=str(self._scope),
                next_step=nearest(name, known, "`antiphon playbooks list` shows them."),
            )
        return known[name]

    def test(self, name: str) -> Backtest:
        """The backtest of a playbook on the recorded incidents; raises as :meth:`show`."""
        return tested(self._store, self._scope, self.get(name), self._all())

    def runs(
        self, *, playbook: str | None = None, incident: str | None = None, limit: int = 50
    ) -> tuple[PlaybookRun, ...]:
        """Runs of playbooks, the latest first."""
        return tuple(self._store.playbook_runs.list(self._scope, playbook=playbook, incident=incident, limit=limit))

    def fitting(self, incident: Incident) -> tuple[PlaybookSpec, ...]:
        """The playbooks that fit an incident as it stands, and whose turn has come."""
        return tuple(
            one for one in self._all().values()
            if aimed(self._store, self._scope, one, incident) is not None and not self._waits(one, incident.id)
        )  # fmt: skip

    def keys(self, run: str) -> tuple[str, ...]:
        """The keys that a run would rotate, which whoever lets it act must administer, as resources of policies.

        Args:
            run: its id, also of one that has not begun.

        Raises:
            NotFoundError: there is no such playbook or incident.
        """
        known = self._store.playbook_runs.find(self._scope, run)
        plan = () if known is None else known.plan
        if known is None:
            incident = incident_of(run)
            name = run.removeprefix(f"{incident}.")
            found = aimed(self._store, self._scope, self.get(name), self._store.incidents.get(self._scope, incident))
            plan = () if found is None else found.plan
        return tuple(dict.fromkeys(f"key/{one.target}" for one in plan if one.step.action == "rotate-key"))

    def rehearse(self, name: str, incident: str) -> PlaybookRehearsal:
        """Say what a playbook would do about an incident now, and do nothing.

        Raises:
            NotFoundError: there is no such playbook or incident. ConflictError: it is not for this incident.
        """
        playbook, found = self._fitted(name, self._store.incidents.get(self._scope, incident))
        now = self._store.database.clock.now()
        run = PlaybookRun(run_id(incident, name), name, incident, "suggested", found.plan, found.cause, now, now)
        return PlaybookRehearsal(
            playbook.name, incident, found.cause, tuple(one.label for one in found.plan), self._actions.hindrances(run),
            self._waits(playbook, incident),
        )  # fmt: skip

    def run(self, name: str, incident: str, principal: str, reason: str) -> PlaybookRun:
        """Begin a playbook for an incident, in its own name and on the word of a person.

        Raises:
            NotFoundError: there is no such playbook or incident. InvalidInputError: no reason.
            ConflictError: it is not for this incident, which is over, it has begun already, or its turn has not come.
        """
        require_text(reason)
        store = self._store
        with store.database.transaction() as connection:
            current = store.incidents.get(self._scope, incident, within=connection)
            if not current.active:
                raise ConflictError(
                    f"The incident {incident} is resolved.", where=incident, next_step="There is nothing to mend."
                )
            known = store.playbook_runs.find(self._scope, run_id(incident, name), within=connection)
            if known is not None:
                self._require_undecided(known)
                return order(store, self._scope, known, principal, reason, connection)
            playbook, found = self._fitted(name, current)
            if waits := self._waits(playbook, incident, connection):
                raise ConflictError(waits, where=incident, next_step=f"Begin {playbook.after}, or do it by hand.")
            return begin(
                store,
                self._scope,
                playbook,
                current,
                found,
                alone=False,
                within=connection,
                person=principal,
                reason=reason,
            )

    def approve(self, run: str, principal: str, reason: str) -> PlaybookRun:
        """Let a run that waits, or is suggested, begin.

        Raises:
            NotFoundError: there is no such run. InvalidInputError: no reason. ConflictError: it is decided about.
        """
        require_text(reason)
        with self._store.database.transaction() as connection:
            found = self._store.playbook_runs.get(self._scope, run, within=connection)
            self._require_undecided(found)
            return order(self._store, self._scope, found, principal, reason, connection)

    def reject(self, run: str, principal: str, reason: str) -> PlaybookRun:
        """Keep a run that waits, or is suggested, from beginning; raises as :meth:`approve`."""
        require_text(reason)
        store = self._store
        with store.database.transaction() as connection:
            found = store.playbook_runs.get(self._scope, run, within=connection)
            self._require_undecided(found)
            now = store.database.clock.now()
            rejected = msgspec.structs.replace(
                found, state="rejected", decided_by=principal, reason=reason, updated_at=now
            )
            store.playbook_runs.put(self._scope, rejected, within=connection)
            store.notifications.resolve(self._scope, approval_id(found), now, f"rejected: {reason}", within=connection)
            write_timeline(
                store, self._scope, found.incident, f"{found.playbook} was rejected: {reason}", principal, connection
            )
            store.audit.append(self._scope, principal, "playbook.reject", run, {"reason": reason}, within=connection)
        return rejected

    def allow(self, name: str, principal: str, reason: str, *, alone: bool = True) -> PlaybookPermission:
        """Let a playbook act alone whatever its backtest, or with ``alone`` false forbid it.

        Raises:
            NotFoundError: there is no such playbook. InvalidInputError: no reason.
        """
        require_text(reason)
        self.get(name)
        store = self._store
        permission = PlaybookPermission(name, alone, principal, reason, store.database.clock.now())
        with store.database.transaction() as connection:
            store.playbook_permissions.put(self._scope, permission, within=connection)
            act = "playbook.allow" if alone else "playbook.forbid"
            store.audit.append(self._scope, principal, act, name, {"reason": reason}, within=connection)
        return permission

    def _all(self) -> dict[str, PlaybookSpec]:
        return dict(all_playbooks(self._store.applied.project(self._scope).playbooks))

    def _line(
        self, playbook: PlaybookSpec, known: dict[str, PlaybookSpec], permission: PlaybookPermission | None
    ) -> PlaybookLine:
        given = {} if permission is None else {playbook.name: permission}
        alone = playbook.mode == "alone" and trusted(self._store, self._scope, playbook, known, given)
        shipped, found = SHIPPED.get(playbook.name) == playbook, tested(self._store, self._scope, playbook, known)
        return PlaybookLine(playbook, shipped, alone, found, permission)

    def _waits(self, playbook: PlaybookSpec, incident: str, within: Connection | None = None) -> str:
        if not playbook.after:
            return ""
        before = self._store.playbook_runs.find(self._scope, run_id(incident, playbook.after), within=within)
        return waits_for(playbook, before) or ""

    def _fitted(self, name: str, incident: Incident) -> tuple[PlaybookSpec, PlaybookFit]:
        playbook = self.get(name)
        found = aimed(self._store, self._scope, playbook, incident)
        if found is None and fit(playbook, incident) is not None:
            raise ConflictError(
                f"Most denied requests of {incident.id} name no single key.",
                where=incident.id,
                next_step="`antiphon audit query --denied` shows them; name the key in the step: key=.",
            )
        if found is None:
            raise ConflictError(
                f"The playbook {name} is not for the incident {incident.id}.",
                where=incident.id,
                next_step=f"It is {incident.severity}, of the class {incident.class_}; `antiphon playbooks show "
                f"{name}` says what the playbook is for.",
            )
        return playbook, found

    def _require_undecided(self, run: PlaybookRun) -> None:
        if run.state not in ("suggested", "waiting"):
            raise ConflictError(
                f"The run {run.id} is {run.state}.", where=run.id,
                next_step="`antiphon playbooks runs` tells who decided, and why.",
            )  # fmt: skip


def project_playbooks(store: Store, features: FeaturePlatform) -> Callable[[Scope], ProjectPlaybooks]:
    """The playbooks of any scope of a project."""
    rollback = FeatureRollback(store, features)
    return lambda scope: ProjectPlaybooks(store, scope, PlaybookActions(store, scope, rollback))
