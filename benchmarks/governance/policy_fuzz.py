"""Random policies, principals and rows for comparing batch with online. It shares nothing with what decides.

Policies are written as Cedar text from a grammar that is wider than what the batch path can express as a predicate:
arithmetic that may overflow, conditionals and tests of roles are in it, so that falling back is fuzzed as well.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEYS = ("origin", "dest", "flight")
TEXTS = (
    "", "JFK", "jfk", "EWR", "J*K", "J%K", "J_K", "a\\b", "it's", 'say "no"', "Zürich", "東京", "e\u0301", "é", "😀",
    "line\nbreak", "tab\t", " ", "*", "%", "_", "\\", "JFKJFK", "--", "NULL", "true", "0", "\ud800", "nul\0",
)  # fmt: skip
WRITTEN = tuple(text for text in TEXTS if text not in ("\ud800", "nul\0"))
"""Texts that a policy may hold."""

MOMENTS = (0, 1, 9, 10, 11, -1, 1_365_000_000, 2**63 - 1, -(2**63))
ROLES = ("admin", "engineer", "service", "viewer")
PURPOSES = ("inform", "plan", "")


@dataclass(frozen=True)
class Asker:
    """A principal, as plain values."""

    id: str
    tenant: str
    role: str
    clearance: str
    attributes: Mapping[str, str]


def quoted(text: str) -> str:
    """A text as Cedar writes it."""
    letters = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(letters.get(letter, letter) for letter in text) + '"'


def pattern(draw: random.Random) -> str:
    """A pattern of ``like``: stars and literal letters, stars among the latter escaped."""
    parts = []
    for _ in range(draw.randint(1, 3)):
        if draw.random() < 0.5:
            parts.append("*")
        else:
            parts.append(quoted(draw.choice(WRITTEN))[1:-1].replace("*", "\\*"))
    return '"' + "".join(parts) + '"'


def condition(draw: random.Random, depth: int) -> str:
    """A condition of type Bool that fits the schema."""
    if depth and draw.random() < 0.6:
        form = draw.choice(("and", "or", "not", "if"))
        if form == "not":
            return f"!({condition(draw, depth - 1)})"
        if form == "if" and draw.random() < 0.3:
            parts = [condition(draw, depth - 1) for _ in range(3)]
            return f"(if {parts[0]} then {parts[1]} else {parts[2]})"
        joined = "&&" if form == "and" else "||"
        return f"({condition(draw, depth - 1)} {joined} {condition(draw, depth - 1)})"
    return draw.choice(ATOMS)(draw)


def _tag(draw: random.Random) -> str:
    key = draw.choice(KEYS)
    read = f'resource.getTag("{key}")'
    test = draw.choice((
        lambda: f"{read} {draw.choice(('==', '!='))} {quoted(draw.choice(WRITTEN))}",
        lambda: f"{read} like {pattern(draw)}",
        lambda: f"[{', '.join(quoted(draw.choice(WRITTEN)) for _ in range(draw.randint(1, 3)))}].contains({read})",
    ))()  # fmt: skip
    return f'(resource.hasTag("{key}") && {test})'


def _two_tags(draw: random.Random) -> str:
    first, second = draw.sample(KEYS, 2)
    guard = f'resource.hasTag("{first}") && resource.hasTag("{second}")'
    return f'({guard} && resource.getTag("{first}") == resource.getTag("{second}"))'


def _own(draw: random.Random) -> str:
    key = draw.choice(KEYS)
    guard = f'resource.hasTag("{key}") && principal.hasTag("{key}")'
    return f'({guard} && resource.getTag("{key}") == principal.getTag("{key}"))'


def _moment(draw: random.Random) -> str:
    bound = draw.choice([moment for moment in MOMENTS if moment > -(2**63)])
    return f"context.as_of {draw.choice(('<', '<=', '>', '>=', '==', '!='))} {bound}"


def _sum(draw: random.Random) -> str:
    return f"(context.as_of + {draw.choice((1, 10, 2**62))}) < {draw.choice((0, 100, 2**62))}"


ATOMS = (
    _tag, _tag, _tag, _two_tags, _own, _moment, _moment,
    lambda draw: _sum(draw) if draw.random() < 0.25 else _tag(draw),
    lambda draw: f"principal.clearance {draw.choice(('<', '<=', '>', '=='))} {draw.randint(0, 3)}",
    lambda draw: f"context.purpose == {quoted(draw.choice(PURPOSES))}",
    lambda draw: f"resource.sensitivity < {draw.randint(0, 3)}",
    lambda draw: f'principal in Role::"{draw.choice(ROLES)}"',
    lambda draw: draw.choice(("true", "false")),
    lambda draw: f'resource.hasTag("{draw.choice((*KEYS, "absent"))}")',
)  # fmt: skip


def policies(draw: random.Random) -> str:
    """A set of one to five policies."""
    written = []
    for number in range(draw.randint(1, 5)):
        effect = "permit" if number == 0 or draw.random() < 0.5 else "forbid"
        who = draw.choice(("principal", f'principal in Role::"{draw.choice(ROLES)}"'))
        action = draw.choice(("action", 'action == Action::"answer"', 'action in [Action::"answer", Action::"read"]'))
        clauses = " ".join(
            f"{draw.choice(('when', 'when', 'unless'))} {{ {condition(draw, draw.randint(0, 3))} }}"
            for _ in range(draw.randint(0, 2))
        )
        written.append(f'@id("p{number}") {effect} ({who}, {action}, resource) {clauses};')
    return "\n".join(written)


def asker(draw: random.Random, number: int) -> Asker:
    """A principal with attributes that rows sometimes share."""
    chosen = draw.sample(KEYS, draw.randint(0, 2))
    return Asker(
        id=f"p{number}",
        tenant="default",
        role=draw.choice(ROLES),
        clearance=draw.choice(("public", "internal", "confidential", "restricted")),
        attributes={key: draw.choice(WRITTEN) for key in chosen},
    )


def row(draw: random.Random) -> tuple[dict[str, str], int]:
    """Keys and moment; seldom a key is missing."""
    keys = {key: draw.choice(TEXTS) for key in KEYS}
    if draw.random() < 0.02:
        del keys[draw.choice(KEYS)]
    moment = draw.choice(MOMENTS) if draw.random() < 0.5 else draw.randint(-20, 20)
    return keys, moment


def storable(keys: Mapping[str, str]) -> bool:
    """Whether the policy engine can be told these keys at all."""
    return not any("\ud800" in value for value in keys.values())


def asked_directly(
    schema: str, cedar: str, who: Asker, sensitivity: int, keys: Mapping[str, str], moment: int, purpose: str
) -> bool:
    """What the policy engine itself says, asked with texts that are made here; any error denies."""
    import cedarpy

    levels = {"public": 0, "internal": 1, "confidential": 2, "restricted": 3}
    principal = {"type": "Principal", "id": f"{who.tenant}/{who.id}"}
    resource = {"type": "Resource", "id": f"{who.tenant}/application/desk"}
    role = {"type": "Role", "id": who.role}
    facts: dict[str, Any] = {
        "kind": "application", "name": "desk", "tenant": who.tenant, "sensitivity": sensitivity, "limited": False,
        "purposes": [], "tuned": False, "trainedFor": [], "author": "", "passed": False, "reasoned": False,
        "grantedTo": "",
    }  # fmt: skip
    own = {"name": who.id, "tenant": who.tenant, "kind": "service", "clearance": levels[who.clearance]}
    entities = [
        {"uid": role, "attrs": {}, "parents": []},
        {"uid": principal, "attrs": own, "parents": [role], "tags": dict(who.attributes)},
        {"uid": resource, "attrs": facts, "parents": [], "tags": dict(keys)},
    ]
    context = {"purpose": purpose, "path": "", "environment": "prod", "originator": "", "as_of": moment}
    request = {"principal": principal, "action": {"type": "Action", "id": "answer"}, "resource": resource}
    try:
        said = cedarpy.is_authorized({**request, "context": context}, cedar, json.dumps(entities), schema)
    except (ValueError, UnicodeError):
        return False
    return bool(said.allowed) and not said.diagnostics.errors
