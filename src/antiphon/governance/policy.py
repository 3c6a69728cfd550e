"""May this happen: one Cedar decision, deny by default.

Invariant: a request is allowed only when a ``permit`` matched, no ``forbid`` matched, and no policy's condition
failed. Cedar skips a policy whose condition fails, which would let a broken ``forbid`` through: here any failure
denies. Policies are checked against the schema when they are loaded.

Policy language: Cutler et al., "Cedar: A New Language for Expressive, Fast, Safe, and Analyzable Authorization",
OOPSLA 2024.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from antiphon.core.errors import Forbidden, InvalidInput, SetupError
from antiphon.core.ids import content_hash
from antiphon.governance.identity import Principal

Action = Literal["answer", "feedback", "administer", "publish", "release", "batch", "read"]
CONTEXT = ("purpose", "path", "environment")
"""What a policy may read of a request's context; a missing one is the empty string."""

_ACTIONS = frozenset(get_args(Action))
_MOST_REMEMBERED = 4_096
_POLICIES = Path(__file__).parent / "policies"


class Decision(msgspec.Struct, frozen=True):
    """What policy said.

    Attributes:
        policies: ids of the policies that decided; empty when none matched.
        digest: of the policies in force.
        errors: conditions that failed, each of which denies.
    """

    allowed: bool
    policies: tuple[str, ...]
    digest: str
    errors: tuple[str, ...] = ()


class Decider:
    """Decides with one immutable set of policies. Decisions are remembered; a new set is a new decider.

    Args:
        policies: Cedar text; ``None`` is the default set.

    Raises:
        InvalidInput: the text does not parse or does not fit the schema.
    """

    def __init__(self, policies: str | None = None) -> None:
        import cedarpy

        text = policies if policies is not None else default_policies()
        schema = (_POLICIES / "schema.cedarschema").read_text()
        self._cedar = cedarpy
        self._schema = cedarpy.Schema.from_str(schema)
        checked = cedarpy.validate_policies(text, self._schema)
        if not checked.validation_passed:
            raise InvalidInput(
                "; ".join(str(error) for error in checked.errors) or "The policies do not parse.",
                where="policy",
                next_step="Mend the policy file.",
            )
        self._policies = cedarpy.PolicySet.from_str(text)
        self.digest = content_hash([schema, text])
        self._remembered: dict[tuple[Any, ...], Decision] = {}

    @classmethod
    def load(cls, extra: Sequence[Path] = ()) -> Decider:
        """The default policies with a project's own added.

        Raises:
            SetupError: a file cannot be read.
            InvalidInput: a policy does not parse or does not fit the schema.
        """
        texts = [default_policies()]
        for path in extra:
            try:
                texts.append(path.read_text())
            except OSError as error:
                raise SetupError(
                    f"The policy file cannot be read: {error.strerror}.", where=str(path), next_step="Check its path."
                ) from error
        return cls("\n".join(texts))

    def decide(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, Any] | None = None
    ) -> Decision:
        """Decide one request.

        Args:
            action: one of :data:`Action`; any other is denied.
            resource: ``kind/name``, such as ``application/flight-desk``.
            context: :data:`CONTEXT`, and ``tenant`` when the resource is another tenant's. Other names are not seen
                by policies.
        """
        context = context or {}
        kind, _, name = resource.partition("/")
        tenant = str(context.get("tenant", principal.tenant))
        seen = tuple(str(context.get(key) or "") for key in CONTEXT)
        remembered = (principal, action, kind, name, tenant, seen)
        decision = self._remembered.get(remembered)
        if decision is None:
            decision = self._decide(principal, action, (kind, name, tenant), dict(zip(CONTEXT, seen, strict=True)))
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[remembered] = decision
        return decision

    def require(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, Any] | None = None
    ) -> Decision:
        """Like :meth:`decide`.

        Raises:
            Forbidden: the decision is to deny.
        """
        decision = self.decide(principal, action, resource, context)
        if not decision.allowed:
            by = ", ".join(decision.policies) or "no policy permits it"
            raise Forbidden(
                f"{principal.id} ({principal.role}) may not {action} {resource}: {by}.",
                where="policy",
                next_step="Ask an administrator for a key with another role.",
            )
        return decision

    def _decide(
        self, principal: Principal, action: str, resource: tuple[str, str, str], context: dict[str, str]
    ) -> Decision:
        if action not in _ACTIONS:
            return Decision(False, (), self.digest, (f"unknown action {action!r}",))
        kind, name, tenant = resource
        who = {"type": "Principal", "id": f"{principal.tenant}/{principal.id}"}
        what = {"type": "Resource", "id": f"{tenant}/{kind}/{name}"}
        role = {"type": "Role", "id": principal.role}
        entities = [
            {"uid": role, "attrs": {}, "parents": []},
            {"uid": who, "attrs": {"tenant": principal.tenant, "kind": principal.kind}, "parents": [role]},
            {"uid": what, "attrs": {"kind": kind, "name": name, "tenant": tenant}, "parents": []},
        ]
        request = {
            "principal": who,
            "action": {"type": "Action", "id": action},
            "resource": what,
            "context": context,
        }
        try:
            result = self._cedar.is_authorized(
                request, self._policies, self._cedar.Entities.from_json_str(json.dumps(entities)), self._schema
            )
            reasons, named = result.diagnostics.reasons, result.diagnostics.id_annotations_by_reason
            errors = tuple(str(error) for error in result.diagnostics.errors)
        except Exception as error:
            # Whatever went wrong in the policy engine, nothing was permitted.
            return Decision(False, (), self.digest, (f"{type(error).__name__}: {error}",))
        policies = () if errors else tuple(sorted(named.get(reason, reason) for reason in reasons))
        return Decision(bool(result.allowed) and not errors, policies, self.digest, errors)


def default_policies() -> str:
    """The Cedar text every project starts with."""
    return (_POLICIES / "default.cedar").read_text()
