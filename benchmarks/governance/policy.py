"""Policy: batch decides like online, the default suite kills every mutant, and what a decision costs.

``python -m benchmarks.governance.policy [--size ci|demo|full]``. Four parts. *Parity*: random policies, principals and
rows; a cell is one row decided by the online decider and by the predicate of the batch path, and one cell in a hundred
by the policy engine asked directly. *Mutants* of the default policies, each of which a case of the default suite must
notice. *Errors*: conditions that fail must deny. *Cost* of a decision, remembered and not. A table, then one JSON line,
kept in ``benchmarks/results/governance.jsonl``; exit code 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from benchmarks.governance import policy_fuzz
from benchmarks.governance.policy_mutants import mutants

from antiphon.core.errors import InvalidInputError
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.cases import run_cases
from antiphon.governance.policy.document import PolicyDocument, default_document, schema_text
from antiphon.governance.policy.engine import Action, Decider, Resource
from antiphon.governance.policy.request import PolicyColumn, PolicyRow
from antiphon.governance.policy.residual import RowPolicy

RESULTS = Path(__file__).parents[1] / "results" / "governance.jsonl"
SEED = 20261124
SIZES = {"ci": 20_000, "demo": 200_000, "full": 1_000_000}
"""Cells of the parity."""

ASKERS, ROWS = 4, 125
"""Principals of one set of policies, and rows of one principal."""

DIRECTLY = 100
"""One cell in so many is also asked of the policy engine directly."""

TIMED = 2_000
UNCACHED_MICROSECONDS, CACHED_MICROSECONDS = 120.0, 3.0
COLUMNS = tuple(PolicyColumn(f"view.feature_{number}", "internal") for number in range(10))


def parity(cells: int, seed: int = SEED, rows_each: int = ROWS) -> dict[str, Any]:
    """Decide the same cells both ways, ``rows_each`` of a principal; ``disagreements`` must be empty."""
    draw = random.Random(seed)
    found: dict[str, Any] = {"cells": 0, "predicate": 0, "row": 0, "allowed": 0, "direct": 0, "sets": 0, "outside": 0}
    disagreements: list[str] = []
    while found["cells"] < cells:
        cedar = policy_fuzz.policies(draw)
        askers = [policy_fuzz.asker(draw, number) for number in range(ASKERS)]
        document = PolicyDocument(cedar, {who.id: dict(who.attributes) for who in askers})
        online, batch = Decider(document), Decider(document)
        found["sets"] += 1
        for who in askers:
            # Without columns, for seeing a column is a question of its own, the same on both ways.
            resource = Resource("application", "desk")
            principal = Principal(who.id, who.tenant, who.role, clearance=who.clearance)  # type: ignore[arg-type]
            purpose = draw.choice(policy_fuzz.PURPOSES)
            context = {"purpose": purpose, "environment": "prod"}
            rows = [PolicyRow(*policy_fuzz.row(draw)) for _ in range(rows_each)]
            policy = RowPolicy(batch, principal, "answer", resource, policy_fuzz.KEYS, context)
            found["outside"] += policy.outside is not None
            verdicts = policy.verdicts(rows)
            decisions = policy.decide(rows, recheck=False)
            for row, verdict, decided in zip(rows, verdicts, decisions, strict=True):
                asked = {**context, "keys": row.keys, "as_of": row.as_of}
                said = online.decide(principal, "answer", resource, asked)
                found["cells"] += 1
                found["predicate" if verdict is not None else "row"] += 1
                found["allowed"] += said.allowed
                agree = decided.allowed == said.allowed and verdict in (None, said.allowed)
                if found["cells"] % DIRECTLY == 0 and policy_fuzz.storable(row.keys):
                    found["direct"] += 1
                    agree &= said.allowed == policy_fuzz.asked_directly(
                        schema_text(), cedar, who, 0, row.keys, row.as_of, purpose
                    )
                if not agree and len(disagreements) < 20:
                    disagreements.append(f"{row} {verdict} {decided} {said} {cedar!r}")
    return {**found, "disagreements": disagreements}


def kill(document: PolicyDocument) -> dict[str, Any]:
    """Which mutants the document's own cases notice; ``survivors`` must be empty."""
    killed, refused, survivors = 0, 0, []
    for what, cedar in mutants(document.cedar, get_args(Action)):
        try:
            decider = Decider(PolicyDocument(cedar, document.attributes))
        except InvalidInputError:
            refused += 1
            continue
        if any(run_cases(decider, (case,)).failed for case in document.cases):  # The first that fails is enough.
            killed += 1
        else:
            survivors.append(what)
    return {"killed": killed, "refused": refused, "survivors": survivors}


def errors_deny() -> bool:
    """A forbid and a permit whose conditions fail, each beside a permit that matches everything."""
    fails = "context.as_of + 9223372036854775807 == 3"
    ann = Principal("ann", "default", "admin")
    for effect in ("forbid", "permit"):
        written = f'@id("all") permit (principal, action, resource); @id("f") {effect} (principal, action, resource)'
        decider = Decider(f"{written} when {{ {fails} }};")
        if decider.decide(ann, "read", "a/b", {"as_of": 10}).allowed:
            return False
        if decider.decide(ann, "read", "a/b", {"as_of": -10}).allowed is not True:
            return False
    return True


def cost(timed: int = TIMED) -> dict[str, dict[str, float]]:
    """Microseconds of a decision, p50 and p99: remembered; of a known principal; of a new row; of a new principal."""
    rules = default_document().cedar + (
        '@id("row") forbid (principal, action == Action::"answer", resource) '
        'when { resource.hasTag("origin") && ["LGA", "EWR"].contains(resource.getTag("origin")) };'
    )
    decider, by_row = Decider(), Decider(rules)
    ann = Principal("ann", "default", "service")
    desk = Resource("application", "desk", columns=COLUMNS)
    context = {"purpose": "inform", "environment": "prod", "path": "online", "tenant": "default"}

    def rows(number: int) -> Callable[[], object]:
        asked = {**context, "keys": {"origin": f"A{number}", "flight": "B6 1"}}
        return lambda: by_row.decide(ann, "answer", desk, asked)

    def principals(number: int) -> Callable[[], object]:
        who = Principal(f"p{number}", "default", "service")
        return lambda: decider.decide(who, "batch", desk, context)

    def purposes(number: int) -> Callable[[], object]:
        asked = {**context, "purpose": f"purpose {number}"}
        return lambda: decider.decide(ann, "answer", Resource("application", "plain"), asked)

    return {
        "remembered": _timed(lambda _: lambda: decider.decide(ann, "answer", desk, context), timed),
        "uncached": _timed(purposes, timed),
        "uncached, new row": _timed(rows, timed),
        "uncached, new principal": _timed(principals, timed),
    }


def _timed(make: Callable[[int], Callable[[], object]], timed: int) -> dict[str, float]:
    spent = []
    for number in range(timed + 50):
        ask = make(number)
        began = time.perf_counter()
        ask()
        if number >= 50:
            spent.append((time.perf_counter() - began) * 1e6)
    return {"p50": round(statistics.median(spent), 2), "p99": round(statistics.quantiles(spent, n=100)[98], 2)}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--size", choices=tuple(SIZES), default="ci")
    chosen = arguments.parse_args()
    began = time.monotonic()
    costs = cost()
    print(f"{'decision, µs':32}{'p50':>12}{'p99':>12}")
    for name, spent in costs.items():
        print(f"{name:32}{spent['p50']:>12.2f}{spent['p99']:>12.2f}")
    killed = kill(default_document())
    print(
        f"\nmutants of the default policies: {killed['killed']} killed, {len(killed['survivors'])} survive, "
        f"{killed['refused']} do not fit the schema"
    )
    for survivor in killed["survivors"]:
        print(f"  survives: {survivor}")
    denies = errors_deny()
    print(f"conditions that fail deny: {denies}", flush=True)
    found = parity(SIZES[chosen.size])
    ways = f"{found['predicate']:,} by predicate, {found['row']:,} one by one"
    print(
        f"parity: {found['cells']:,} cells of {found['sets']:,} sets of policies, {len(found['disagreements'])} "
        f"disagreements; {ways}; {found['allowed']:,} allowed, {found['direct']:,} also asked of the engine directly"
    )
    for disagreement in found["disagreements"]:
        print(f"  {disagreement}")
    kept = (
        not found["disagreements"]
        and not killed["survivors"]
        and denies
        and costs["remembered"]["p50"] <= CACHED_MICROSECONDS
        and costs["uncached"]["p50"] <= UNCACHED_MICROSECONDS
    )
    line = {
        "benchmark": "governance", "at": datetime.now(UTC).isoformat(timespec="seconds"), "size": chosen.size,
        "seed": SEED, "microseconds": costs, "mutants": killed, "errors_deny": denies, "parity": found, "kept": kept,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    text = json.dumps(line)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as results:
        results.write(text + "\n")
    print(text)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
