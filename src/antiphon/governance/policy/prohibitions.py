"""The `forbid` policies of a set by themselves: what they keep from a principal, whatever permits it.

A record of an answer (its receipt, its texts, a row of a batch) is read under the action ``read``. What forbids the
answer forbids the record too, or the record would be the way around the answer's policies: a clearance, a purpose, a
rule over the entity's keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.engine import Decider
from antiphon.governance.policy.parts import policy_set
from antiphon.governance.policy.request import CONTEXT, Decision, Effective, PolicyColumn, Resource, effective
from antiphon.governance.policy.validation import constant

_EVERYTHING = "everything"
_ALL = {"op": "All"}
_PERMIT = {"effect": "permit", "principal": _ALL, "action": _ALL, "resource": _ALL, "conditions": []}


class Prohibitions:
    """Decides with the ``forbid`` policies of one decider; where none matches, it allows."""

    def __init__(self, decider: Decider) -> None:
        self._decider = decider
        self._forbids = [part for part in decider.parts.policies if part.effect == "forbid"]
        self._policies = policy_set({part.position: part.tree for part in self._forbids} | {_EVERYTHING: _PERMIT})
        self.digest = decider.digest
        """Of the whole set of policies."""

    def decide(
        self,
        principal: Principal,
        action: str,
        resource: Resource,
        context: Mapping[str, Any],
        *,
        own: bool = False,
    ) -> Decision:
        """Tell whether some policy forbids the action; of each column, whether one forbids to see it.

        Args:
            context: as for :meth:`Decider.decide`.
            own: the record was made for this principal, so that columns which are masked for it are not in it.
        """
        visible = self._visible(principal, resource, context, own)
        if isinstance(visible, Decision):
            return visible
        return self._decider.evaluate(principal, action, visible, context, self._policies)

    def over_entities(
        self,
        principal: Principal,
        action: str,
        resource: Resource,
        keys: Sequence[str],
        context: Mapping[str, Any],
        *,
        own: bool = False,
    ) -> Decision:
        """Tell whether some policy forbids the action for any entity with these keys, at any moment.

        Args:
            context: as for :meth:`Decider.decide`; what it does not name, such as the originator, may be anything.
            own: the record was made for this principal, and decided entity by entity then: what is masked for it is not
                in the record, and only what forbids the action for every entity denies.
        """
        visible = self._visible(principal, resource, context, own)
        if isinstance(visible, Decision):
            return visible
        known = {name: str(context[name] or "") for name in CONTEXT if name in context}
        try:
            said = self._decider.partial(principal, action, visible, known, keys, self._policies)
        except Exception as error:
            return Decision(False, (), self.digest, (f"it cannot be evaluated for every entity: {error}",))
        errors = tuple(str(error) for error in said.diagnostics.errors)
        if errors:
            return Decision(False, (), self.digest, errors)
        denying = [
            part.name
            for part in self._forbids
            if (matches := _matches(said.residuals.get(part.position))) or (matches is None and not own)
        ]
        return Decision(not denying, tuple(sorted(denying)), self.digest)

    def _visible(
        self, principal: Principal, resource: Resource, context: Mapping[str, Any], own: bool
    ) -> Effective | Decision:
        tenant = str(context.get("tenant") or resource.tenant or principal.tenant)
        visible: list[PolicyColumn] = []
        for column in resource.columns:
            feature = Resource("feature", column.name, tenant, (column,))
            met = effective(feature, tenant, (column,))
            said = self._decider.evaluate(principal, "see", met, context, self._policies)
            if said.allowed:
                visible.append(column)
            elif said.errors or not own or not self._decider.parts.masks(said.policies):
                return said
        return effective(resource, tenant, visible)


def _matches(residual: Mapping[str, Any] | None) -> bool | None:
    """Tell whether what is left of a policy matches every entity, or none; ``None``: it depends on the entity."""
    if residual is None:
        return None
    met = []
    for condition in residual.get("conditions", []):
        value = constant(condition["body"])
        met.append(None if value is None else value == (condition["kind"] == "when"))
    if False in met:
        return False
    return None if None in met else True
