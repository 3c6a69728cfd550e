"""Actions of playbooks on keys: the key that most denied requests were sent with is rotated.

Invariants: as of :mod:`antiphon.services.playbooks.actions`, and
- The secret that a rotation makes is dropped at once. The key that takes the place of the present one is nobody's until
  an administrator rotates it, which shows a secret to that person alone, as every rotation does.
- A key is chosen when the playbook meets the incident: later denials move no step to another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from antiphon.catalog.incidents import Incident
from antiphon.catalog.notifications import Notification
from antiphon.catalog.playbooks import PlaybookRun
from antiphon.core.clock import parse_duration
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.playbooks import PlaybookSpec
from antiphon.governance.audit.log import AuditFilter
from antiphon.governance.identity.key_records import KeyRecord
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.rotations import take_back
from antiphon.operations.playbooks.fitting import PlaybookFit, fit
from antiphon.services.governance.identity import rotation_detail
from antiphon.services.project.store import Store

KIND = "incident.key"
"""Kind of the notifications that a key was rotated."""

MOST_SHARE = 0.5
"""A key is named by the denials when more than this share of them is its own."""

LEAST_DENIALS = 10
_MOST_RECORDS = 500
_BEFORE = timedelta(minutes=2)
"""Denials are counted from so long before the first symptom: the signal is late by its periods."""


def aimed(store: Store, scope: Scope, playbook: PlaybookSpec, incident: Incident) -> PlaybookFit | None:
    """The steps of a playbook for an incident, with the keys that they rotate; ``None`` where it is not for it, or its
    denials name no key."""
    found = fit(playbook, incident)
    if found is None or all(one.step.action != "rotate-key" for one in found.plan):
        return found
    named, said = "", ""
    if any(one.step.action == "rotate-key" and not one.target for one in found.plan):
        named, said = _of_denials(store, scope, incident)
        if not named:
            return None
    plan = tuple(
        msgspec.structs.replace(one, target=_id_of(store, scope, one.target or named))
        if one.step.action == "rotate-key" else one
        for one in found.plan
    )  # fmt: skip
    return msgspec.structs.replace(found, plan=plan, cause=f"{found.cause} {said}".strip())


def _of_denials(store: Store, scope: Scope, incident: Incident) -> tuple[str, str]:
    """The key that most of an incident's denials name, and the sentence that says so; empty without one."""
    since = min((one.since for one in incident.symptoms), default=incident.opened_at) - _BEFORE
    denials = AuditFilter(action="denied", since=since, denied=True, limit=_MOST_RECORDS)
    counted: Counter[str] = Counter()
    for one in store.audit.query(scope, denials):
        detail = one.detail or {}
        counted[str(detail.get("key") or "")] += int(detail.get("count", 1))
    total = counted.total()
    key, count = max(((key, count) for key, count in counted.items() if key), key=lambda one: one[1], default=("", 0))
    if count < LEAST_DENIALS or count <= MOST_SHARE * total:
        return "", ""
    return key, f"{count} of {total} denied requests were sent with {key}."


def _id_of(store: Store, scope: Scope, name: str) -> str:
    """The id of a principal's one key; the name as it is where there is none or several."""
    found = _valid(store, scope, name)
    return found[0].id if len(found) == 1 else name


def _valid(store: Store, scope: Scope, name: str) -> list[KeyRecord]:
    now = store.database.clock.now()
    return [
        one for one in store.keys.list(scope.tenant)
        if name in (one.name, one.id) and one.refusal(now) is None and one.replaced_by is None
    ]  # fmt: skip


class KeyActions:
    """Rotates keys of a scope's tenant."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope

    def observe(self, target: str) -> dict[str, Any]:
        """The key that a rotation is about.

        Raises:
            NotFoundError: there is no such valid key, or it was rotated. ConflictError: there are several, or it is an
                administrator's, who would be locked out.
        """
        found = _valid(self._store, self._scope, target)
        if not found:
            raise NotFoundError(
                f"There is no valid key {target!r} that was not rotated yet.", where=self._scope.tenant,
                next_step="`antiphon keys list` shows them.",
            )  # fmt: skip
        if len(found) > 1:
            raise ConflictError(
                f"{target!r} has {len(found)} valid keys.", where=self._scope.tenant,
                next_step=f"Name one of them in the step: {', '.join(one.id for one in found)}.",
            )  # fmt: skip
        if found[0].role == "admin":
            raise ConflictError(
                f"{found[0].id} is the key of {found[0].name}, an administrator.", where=found[0].id,
                next_step=f"A person decides: `antiphon keys rotate {found[0].id}`.",
            )  # fmt: skip
        end = found[0].expires_at
        return {"key": found[0].id, "expires_at": None if end is None else end.isoformat()}

    def rotate(
        self, run: PlaybookRun, number: int, by: Principal, duration: str, seen: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Have another key take the place of one, which then holds for the duration, unless that was done; and tell
        how its owner gets the secret."""
        store, scope, tenant = self._store, self._scope, self._scope.tenant
        overlap = timedelta() if duration == "0s" else parse_duration(duration)
        with store.database.transaction() as connection:
            old = store.keys.get(tenant, str(seen["key"]), within=connection)
            if old.replaced_by is None:
                # Without an approval: what nobody has the secret of opens nothing, and rotating it waits for one.
                made = store.keys.rotate(tenant, old.id, overlap, by=by, within=connection)
                old, new = made.replaced, made.record
                detail = {**rotation_detail(made), "reason": run.cause}
                store.audit.append(scope, by.id, "key.rotate", new.id, detail, within=connection)
                store.notifications.append(scope, _notification(run, number, old, new), within=connection)
            elif (new := store.keys.get(tenant, old.replaced_by, within=connection)).made_by != by.id:
                raise ConflictError(
                    f"The key {old.id} was rotated by {new.made_by}.", where=old.id,
                    next_step="Nothing is left to be done.",
                )  # fmt: skip
        store.keys.forget()
        said = f"{old.id} of {old.name} holds until {old.expires_at:%H:%M:%S}Z; {new.id} takes its place."
        return {"key": old.id, "successor": new.id, "expires_at": seen["expires_at"], "sentence": said}

    def undo(self, by: str, reason: str, done: Mapping[str, Any]) -> dict[str, Any]:
        """Let the key hold as it did, unless somebody revoked or rotated one of both since."""
        store, tenant, end = self._store, self._scope.tenant, done["expires_at"]
        key, successor = str(done["key"]), str(done["successor"])
        with store.database.transaction() as connection:
            until = None if end is None else datetime.fromisoformat(end)
            back = take_back(store.keys, tenant, key, successor, until, within=connection)
            if back:
                detail = {"previous": successor, "until": end, "reason": f"undone: {reason}"}
                store.audit.append(self._scope, by, "key.restore", key, detail, within=connection)
        store.keys.forget()
        return {"sentence": f"{key} holds as it did." if back else f"{key} stays as people left it since."}


def _notification(run: PlaybookRun, number: int, old: KeyRecord, new: KeyRecord) -> Notification:
    maker = f", made by {old.made_by}" if old.made_by else ""
    return Notification(
        f"{KIND}:{run.incident}:{run.playbook}.{number}", KIND, "warning", "firing",
        f"The key {old.id} of {old.name} was rotated"[:200], run.updated_at,
        f"{run.cause}\n{old.id} ({old.name}, {old.role}{maker}) holds until {old.expires_at:%Y-%m-%d %H:%M:%S}Z. "
        f"{new.id} takes its place, and nobody has its secret yet.\n`antiphon keys rotate {new.id}` makes one for its "
        "owner and shows it once; `antiphon keys revoke` ends a key at once.",
        ended_at=run.updated_at, labels={"incident": run.incident, "playbook": run.playbook, "key": old.id},
        link=f"/incidents/{run.incident}",
    )  # fmt: skip
