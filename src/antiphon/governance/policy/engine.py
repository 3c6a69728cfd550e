"""May this happen: one Cedar decision, deny by default.

Invariants: a request is allowed only when a ``permit`` matched, no ``forbid`` matched, and no policy's condition
failed. Cedar skips a policy whose condition fails, which would let a broken ``forbid`` through: here any failure
denies. Policies are checked against the schema when they are loaded, and a decider never changes: other policies are
another decider with another digest.

A column that a ``forbid`` with ``@mask("null")`` hides is read as absent; one that any other policy hides, or that
nothing permits, denies the whole request.

Policy language: Cutler et al., "Cedar: A New Language for Expressive, Fast, Safe, and Analyzable Authorization",
OOPSLA 2024.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, TypeVar, get_args

from antiphon.core.errors import ForbiddenError, InvalidInputError
from antiphon.governance.identity.principal import KEY_SCOPE, Principal
from antiphon.governance.policy.document import PolicyDocument, default_document, schema_text
from antiphon.governance.policy.parts import PolicyParts, parts_of
from antiphon.governance.policy.request import (
    CONTEXT,
    LEVELS,
    Action,
    Decision,
    Effective,
    PolicyColumn,
    Resource,
    effective,
    purpose_to_name,
    resource_of,
)

__all__ = ["Action", "Decider", "Decision", "PolicyColumn", "Resource"]

ACTIONS = frozenset(get_args(Action))
READING = frozenset({"answer", "train", "export", "read_source_rows"})
"""Actions that disclose the columns of their resource."""

MASKING = frozenset({"answer"})
"""Actions that may go on without a column; for the others a masked column denies."""

KEY, MOMENT = "key:", "as_of"
"""The names of what a partial evaluation leaves open: a key of the entity (after this prefix), and the moment."""

_MOST_REMEMBERED = 16_384
_NOTHING: Mapping[str, Any] = {}

K = TypeVar("K")
V = TypeVar("V")


class Decider:
    """Decides with one immutable set of policies, the default one without any, and remembers what it decided.

    Raises:
        InvalidInputError: the text does not parse or does not fit the schema.
    """

    def __init__(self, policies: PolicyDocument | str | None = None) -> None:
        import cedarpy

        document = PolicyDocument(policies) if isinstance(policies, str) else policies or default_document()
        self._cedar = cedarpy
        self.document = document
        self._schema = _schema()
        checked = cedarpy.validate_policies(document.cedar, self._schema)
        if not checked.validation_passed:
            raise InvalidInputError(
                "; ".join(str(error) for error in checked.errors) or "The policies do not parse.",
                where="policy",
                next_step="Mend the policy file; docs/policy.md shows what policies may speak of.",
            )
        self._policies = cedarpy.PolicySet.from_str(document.cedar)
        self.parts: PolicyParts = parts_of(document.cedar)
        self.digest = document.digest
        self._reads_row = bool(self.parts.keys) or self.parts.any_key
        self._remembered: dict[tuple[Any, ...], Decision] = {}
        self._principals: dict[Principal, Any] = {}
        self._met: dict[tuple[Principal, Effective], Any] = {}

    def decide(
        self, principal: Principal, action: str, resource: str | Resource, context: Mapping[str, Any] | None = None
    ) -> Decision:
        """Decide one request.

        Args:
            action: one of :data:`Action`; any other is denied.
            resource: what it is done to; ``kind/name`` when there is no more to say about it.
            context: :data:`CONTEXT`; ``tenant`` when the resource is another tenant's; ``keys`` of the entity that is
                asked about; ``as_of`` in seconds since 1970. Other names are not seen by policies.
        """
        context = context or _NOTHING
        reads = self.parts.context
        remembered = (
            principal,
            action,
            resource,
            context.get("tenant"),
            context.get("environment") if "environment" in reads else None,
            context.get("purpose") if "purpose" in reads else None,
            context.get("path") if "path" in reads else None,
            context.get("originator") if "originator" in reads else None,
            context.get("as_of") if "as_of" in reads else None,
            self._row_key(context) if self._reads_row else None,
        )
        decision = self._remembered.get(remembered)
        if decision is None:
            decision = self._decide(principal, action, self.known(resource), context)
            _keep(self._remembered, remembered, decision)
        return decision

    def require(
        self, principal: Principal, action: str, resource: str | Resource, context: Mapping[str, Any] | None = None
    ) -> Decision:
        """Like :meth:`decide`.

        Raises:
            ForbiddenError: the decision is to deny.
        """
        decision = self.decide(principal, action, resource, context)
        if not decision.allowed:
            raise ForbiddenError(
                f"{principal.id} ({principal.role}) may not {action} {resource}: {decision.reason}.",
                where="policy",
                next_step=purpose_to_name(decision.policies, resource, (context or {}).get("purpose"))
                or f"`antiphon policy explain {principal.id} {action} {resource}` says what would have to hold.",
            )
        return decision

    def known(self, resource: str | Resource) -> Resource:
        """The resource that a text names."""
        return resource if isinstance(resource, Resource) else resource_of(resource)

    def met(
        self, principal: Principal, action: str, resource: Resource, context: Mapping[str, Any]
    ) -> tuple[Effective, tuple[str, ...]] | Decision:
        """The resource as this principal meets it and the columns that are masked for it, or why columns deny."""
        tenant = str(context.get("tenant") or resource.tenant or principal.tenant)
        if not resource.columns or action not in READING:
            return effective(resource, tenant, resource.columns), ()
        seen = _texts(context)
        masked: list[str] = []
        visible: list[PolicyColumn] = []
        for column in resource.columns:
            said = self._column(principal, column, tenant, resource.granted_to, seen)
            if said.allowed:
                visible.append(column)
            elif not said.errors and action in MASKING and said.policies and self.parts.masks(said.policies):
                masked.append(column.name)
            else:
                return Decision(False, said.policies, self.digest, said.errors, tuple(masked))
        return effective(resource, tenant, visible), tuple(masked)

    def evaluate(
        self, principal: Principal, action: str, met: Effective, context: Mapping[str, Any], policies: Any = None
    ) -> Decision:
        """One evaluation of the engine, nothing remembered; ``policies`` a parsed set other than the own one."""
        try:
            entities = self._entities(principal, met, self._row(context))
            query = {
                "principal": {"type": "Principal", "id": _principal_id(principal)},
                "action": {"type": "Action", "id": action},
                "resource": {"type": "Resource", "id": _resource_id(met)},
                "context": self._read(context),
            }
            result = self._cedar.is_authorized(query, policies or self._policies, entities, self._schema)
        except Exception as error:
            # Whatever went wrong in the policy engine, nothing was permitted.
            return Decision(False, (), self.digest, (f"{type(error).__name__}: {error}",))
        return self._said(result)

    def _entities(self, principal: Principal, met: Effective, row: Mapping[str, Any]) -> Any:
        """Parsed handles; a text is made only of what was not met before, and of the keys that policies read."""
        base = self._principal(principal)
        if row:
            return base.with_added_json_str(f'[{{{_resource_text(met)},"tags":{json.dumps(row)}}}]')
        found = self._met.get((principal, met))
        if found is None:
            found = base.with_added_json_str(f"[{{{_resource_text(met)}}}]")
            _keep(self._met, (principal, met), found)
        return found

    def _row(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The keys that policies read: what they do not read must not decide, for it is not remembered."""
        keys = context.get("keys")
        if not keys or not self._reads_row:
            return {}
        return dict(keys) if self.parts.any_key else {name: keys[name] for name in self.parts.keys if name in keys}

    def partial(
        self,
        principal: Principal,
        action: str,
        met: Effective,
        known: Mapping[str, str],
        keys: Sequence[str],
        policies: Any = None,
    ) -> Any:
        """The engine's partial evaluation, whose answer is never final, by ``policies`` or the own set.

        ``known`` is what is known of :data:`CONTEXT`; the rest, the moment and the entity's ``keys`` are left open."""
        context = {name: known.get(name, _unknown(name)) for name in CONTEXT} | {MOMENT: _unknown(MOMENT)}
        tags = {name: _unknown(KEY + name) for name in keys}
        # With the schema the handle also holds the actions, which would be taken for unknown otherwise.
        base = self._cedar.Entities.from_json_str(self._principal_json(principal), self._schema)
        entities = base.with_added_json_str(f'[{{{_resource_text(met)},"tags":{json.dumps(tags)}}}]')
        return self._cedar.is_authorized_partial(
            {
                "principal": f"Principal::{_quoted(_principal_id(principal))}",
                "action": f"Action::{_quoted(action)}",
                "resource": f"Resource::{_quoted(_resource_id(met))}",
                "context": json.dumps(context),
            },
            policies or self._policies,
            entities,
        )

    def _row_key(self, context: Mapping[str, Any]) -> tuple[Any, ...] | None:
        keys = context.get("keys")
        if not keys:
            return None
        if self.parts.any_key:
            return tuple(sorted(keys.items()))
        return tuple([keys.get(name) for name in self.parts.keys])

    def _decide(self, principal: Principal, action: str, resource: Resource, context: Mapping[str, Any]) -> Decision:
        if action not in ACTIONS:
            known = ", ".join(sorted(ACTIONS))
            return Decision(False, (), self.digest, (f"unknown action {action!r}; there are {known}",))
        if principal.limits.refusal(action, str(resource)) is not None:
            return Decision(False, (KEY_SCOPE,), self.digest)
        met = self.met(principal, action, resource, context)
        if isinstance(met, Decision):
            return met
        decision = self.evaluate(principal, action, met[0], context)
        if met[1] and decision.allowed:
            return Decision(True, decision.policies, self.digest, (), met[1])
        return decision

    def _column(
        self, principal: Principal, column: PolicyColumn, tenant: str, granted_to: str, seen: Mapping[str, str]
    ) -> Decision:
        """Decide about a column with one request to the engine; equal requests are decided once."""
        key = (principal, column, tenant, granted_to, *(seen[name] for name in CONTEXT if name in self.parts.context))
        said = self._remembered.get(key)
        if said is None:
            feature = Resource("feature", column.name, tenant, (column,), granted_to=granted_to)
            said = self.evaluate(principal, "see", effective(feature, tenant, (column,)), seen)
            _keep(self._remembered, key, said)
        return said

    def _principal(self, principal: Principal) -> Any:
        found = self._principals.get(principal)
        if found is None:
            found = self._cedar.Entities.from_json_str(self._principal_json(principal))
            _keep(self._principals, principal, found)
        return found

    def _principal_json(self, principal: Principal) -> str:
        role = {"type": "Role", "id": principal.role}
        attributes = {
            "name": principal.id,
            "tenant": principal.tenant,
            "kind": principal.kind,
            "clearance": LEVELS[principal.clearance],
        }
        own = {
            "uid": {"type": "Principal", "id": _principal_id(principal)},
            "attrs": attributes,
            "parents": [role],
            "tags": self.document.attributes.get(principal.id, {}),
        }
        return json.dumps([{"uid": role, "attrs": {}, "parents": []}, own])

    def _read(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The context with what policies read of it; the rest is empty."""
        reads = self.parts.context
        seen: dict[str, Any] = {name: str(context.get(name) or "") if name in reads else "" for name in CONTEXT}
        seen["as_of"] = int(context.get("as_of") or 0) if "as_of" in reads else 0
        return seen

    def _said(self, result: Any) -> Decision:
        errors = tuple(str(error) for error in result.diagnostics.errors)
        policies = () if errors else self.parts.names(result.diagnostics.reasons)
        return Decision(bool(result.allowed) and not errors, policies, self.digest, errors)


@cache
def _schema() -> Any:
    import cedarpy

    return cedarpy.Schema.from_str(schema_text())


def _texts(context: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(context.get(name) or "") for name in CONTEXT}


def _principal_id(principal: Principal) -> str:
    return f"{principal.tenant}/{principal.id}"


def _resource_id(met: Effective) -> str:
    return f"{met.tenant}/{met.resource.kind}/{met.resource.name}"


def _unknown(name: str) -> dict[str, Any]:
    return {"__extn": {"fn": "unknown", "arg": name}}


def _quoted(text: str) -> str:
    # Cedar reads \u{…} where JSON writes surrogate pairs, and text as it is where nothing need be escaped.
    escaped = "".join(
        f"\\u{{{ord(letter):x}}}" if letter in '"\\' or not letter.isprintable() else letter for letter in text
    )
    return f'"{escaped}"'


@lru_cache(maxsize=4_096)
def _resource_text(met: Effective) -> str:
    resource = met.resource
    attributes = {
        "kind": resource.kind,
        "name": resource.name,
        "tenant": met.tenant,
        "sensitivity": met.sensitivity,
        "limited": met.limited,
        "purposes": list(met.purposes),
        "tuned": resource.trained_for is not None,
        "trainedFor": list(resource.trained_for or ()),
        "author": resource.author,
        "passed": resource.passed,
        "reasoned": resource.reasoned,
        "grantedTo": resource.granted_to,
    }
    uid = json.dumps({"type": "Resource", "id": _resource_id(met)})
    return f'"uid":{uid},"attrs":{json.dumps(attributes)},"parents":[]'


def _keep(remembered: dict[K, V], key: K, value: V) -> None:
    # Names come from requests: without a bound, unknown ones would fill the memory.
    if len(remembered) >= _MOST_REMEMBERED:
        remembered.clear()
    remembered[key] = value
