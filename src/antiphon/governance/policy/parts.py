"""Policies parsed from Cedar's JSON form: names, effects, and the attributes that conditions read.

Source of the form: Cedar, "JSON policy format".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from antiphon.governance.policy.request import CONTEXT

MASK = "mask"
"""The annotation of a ``forbid`` whose columns are read as absent."""


class ParsedPolicy(msgspec.Struct, frozen=True):
    """One policy. ``name`` is its ``@id``, else the position it stands at; ``tree`` its JSON form."""

    position: str
    name: str
    named: bool
    effect: Literal["permit", "forbid"]
    mask: bool
    tree: dict[str, Any]

    @property
    def reads_row(self) -> bool:
        """True when its conditions read keys of the entity."""
        return any(
            kind == "key" for condition in self.tree.get("conditions", []) for kind, _ in _read(condition["body"])
        )


class PolicyParts(msgspec.Struct, frozen=True):
    """The policies of a set, and what they read.

    Attributes:
        keys: keys of the asked entity that conditions read; ``any_key``: they read some that only the request names.
        context: names of the context that conditions read.
    """

    policies: tuple[ParsedPolicy, ...]
    keys: tuple[str, ...]
    any_key: bool
    context: frozenset[str]

    def names(self, positions: Iterable[str]) -> tuple[str, ...]:
        """The names of policies by position, sorted."""
        named = {part.position: part.name for part in self.policies}
        return tuple(sorted(named.get(position, position) for position in positions))

    def masks(self, names: Iterable[str]) -> bool:
        """Tell whether each of these policies masks."""
        masking = {part.name for part in self.policies if part.mask}
        return all(name in masking for name in names)


def parts_of(cedar: str) -> PolicyParts:
    """Read a set of policies that parses; templates decide nothing and are left out."""
    import cedarpy

    trees = msgspec.json.decode(cedarpy.policies_to_json_str(cedar))["staticPolicies"]
    policies = []
    for position, tree in sorted(trees.items(), key=lambda item: int(item[0].removeprefix("policy"))):
        annotations = tree.get("annotations", {})
        name = annotations.get("id")
        policies.append(
            ParsedPolicy(
                position=position,
                name=name or position,
                named=bool(name),
                effect=tree["effect"],
                mask=tree["effect"] == "forbid" and annotations.get(MASK) == "null",
                tree=tree,
            )
        )
    keys: set[str] = set()
    context: set[str] = set()
    any_key = False
    for part in policies:
        for condition in part.tree.get("conditions", []):
            for kind, name in _read(condition["body"]):
                if kind == "key" and name is not None:
                    keys.add(name)
                elif kind == "key":
                    any_key = True
                elif name is not None:
                    context.add(name)
                else:
                    context |= {*CONTEXT, "as_of"}
    return PolicyParts(tuple(policies), tuple(sorted(keys)), any_key, frozenset(context))


def policy_set(trees: Mapping[str, Any]) -> Any:
    """The engine's own set of policies, from the JSON form of each by position."""
    import cedarpy

    document = {"templates": {}, "staticPolicies": trees, "templateLinks": []}
    return cedarpy.PolicySet.from_json_str(msgspec.json.encode(document).decode())


def _read(tree: Any) -> Iterator[tuple[str, str | None]]:
    """Attributes that an expression reads of the row (``key``) and of the context; ``None`` when unknown."""
    if isinstance(tree, list):
        for item in tree:
            yield from _read(item)
        return
    if not isinstance(tree, dict):
        return
    for operator, operands in tree.items():
        if operator == "Value":
            continue
        if operator == "Var":
            if operands == "context":
                yield "context", None
            continue
        if operator == "." and operands.get("left") == {"Var": "context"}:
            yield "context", operands["attr"]
            continue
        if operator in ("hasTag", "getTag") and operands["left"] != {"Var": "principal"}:
            name = operands["right"].get("Value")
            yield "key", name if operands["left"] == {"Var": "resource"} and isinstance(name, str) else None
            yield from _read(operands["right"])
            if operands["left"] != {"Var": "resource"}:
                yield from _read(operands["left"])
            continue
        yield from _read(list(operands.values()) if isinstance(operands, dict) else operands)
