"""Mutants of a set of policies, made on Cedar's JSON form. It knows nothing of who decides or of the test cases."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

FLIPPED = {"==": ("!=",), "!=": ("==",), "<": (">=", "<="), "<=": (">", "<"), ">": ("<=", ">="), ">=": ("<", ">")}


def mutants(cedar: str, actions: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What was changed, and the changed policies as text.

    Args:
        actions: every action of the schema, to widen scopes by one.
    """
    import cedarpy

    whole = json.loads(cedarpy.policies_to_json_str(cedar))
    for position in sorted(whole["staticPolicies"], key=lambda name: int(name.removeprefix("policy"))):
        policy = whole["staticPolicies"][position]
        name = policy["annotations"]["id"]
        dropped = copy.deepcopy(whole)
        del dropped["staticPolicies"][position]
        yield f"{name}: dropped", cedarpy.policies_from_json_str(json.dumps(dropped))
        for what, changed in _changed(policy, actions):
            mutated = copy.deepcopy(whole)
            mutated["staticPolicies"][position] = changed
            yield f"{name}: {what}", cedarpy.policies_from_json_str(json.dumps(mutated))


def _changed(policy: dict[str, Any], actions: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in ("principal", "action", "resource"):
        if policy[part] != {"op": "All"}:
            yield f"{part} widened to all", {**policy, part: {"op": "All"}}
    named = [entity["id"] for entity in policy["action"].get("entities", [])]
    if policy["action"]["op"] == "==":
        named = [policy["action"]["entity"]["id"]]
    if named:
        for action in actions:
            if action not in named:
                yield f"also {action}", {**policy, "action": _listed([*named, action])}
        for action in named if len(named) > 1 else ():
            yield f"not {action}", {**policy, "action": _listed([other for other in named if other != action])}
    for place, clause in enumerate(policy["conditions"]):
        others = [*policy["conditions"]]
        del others[place]
        yield f"condition {place} removed", {**policy, "conditions": others}
        turned = {**clause, "kind": "unless" if clause["kind"] == "when" else "when"}
        yield f"condition {place} turned", {**policy, "conditions": _at(policy["conditions"], place, turned)}
        for what, body in _bodies(clause["body"]):
            changed = _at(policy["conditions"], place, {**clause, "body": body})
            yield f"condition {place}: {what}", {**policy, "conditions": changed}


def _bodies(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every way to change one place of an expression."""
    if not isinstance(tree, dict):
        return
    operator, operands = next(iter(tree.items()))
    for other in FLIPPED.get(operator, ()):
        yield f"{operator} became {other}", {other: operands}
    if operator in ("&&", "||"):
        yield f"{operator} turned", {"||" if operator == "&&" else "&&": operands}
        yield f"left of {operator} alone", operands["left"]
        yield f"right of {operator} alone", operands["right"]
    if operator == "!":
        yield "! removed", operands["arg"]
    if operator in ("contains", "."):
        whole = {"!": {"arg": tree}}
        if operator == "contains":
            yield "contains negated", whole
    if isinstance(operands, dict):
        for side in ("left", "right", "arg"):
            for what, changed in _bodies(operands.get(side)):
                yield what, {operator: {**operands, side: changed}}


def _listed(names: list[str]) -> dict[str, Any]:
    return {"op": "in", "entities": [{"type": "Action", "id": name} for name in names]}


def _at(items: list[Any], place: int, item: Any) -> list[Any]:
    return [item if index == place else old for index, old in enumerate(items)]
