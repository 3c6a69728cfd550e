"""Explains symptoms: root sets with paths of evidence, or "no cause found". Pure.

1. Each component with evidence that is a known mechanism is a candidate; it explains the symptoms that the mechanism
   can have, that lie downstream of it in the topology, and that did not begin before it.
2. A candidate whose own evidence another one explains is an effect of that one, not a cause.
3. Of those left, evidence that is itself a symptom makes a root. Changes and traffic, which are none, become a root
   only for symptoms that no other root explains; a change also has to be unlikely to have come so near by chance, and
   of two that explain the same equally well neither is blamed.
4. Symptoms that share a root are one diagnosis. So are roots of one class that began together and act on the same: two
   faults at once are hardly ever chance. What nobody explains is one more, without a cause.

The order of symptoms decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import msgspec

from antiphon.catalog.incidents import NO_CAUSE, IncidentClass
from antiphon.operations.incidents.causes import (
    CONTEXT,
    MECHANISMS,
    SLACK,
    UNLIKELY,
    Mechanism,
    by_chance,
    is_enough,
    may_precede,
)
from antiphon.operations.incidents.detection import Symptom
from antiphon.operations.incidents.signals import SIGNALS
from antiphon.operations.incidents.topology import APPLICATIONS, CATALOG, GATEWAY, HOST, LINK, MAIN_ENGINE, Topology

_USERS = frozenset({"failed", "engine_errors", "invalid", "refused", "slow", "stand_ins"})
_OF_ENGINES = frozenset({"engine_errors", "stand_ins", "slow"})


class DiagnosedRoot(msgspec.Struct, frozen=True):
    """A cause: the evidence for it, and the path to each component with a symptom that it explains."""

    component: str
    class_: IncidentClass
    evidence: tuple[Symptom, ...]
    paths: tuple[tuple[str, ...], ...] = ()


class Diagnosis(msgspec.Struct, frozen=True):
    """Symptoms that belong together, with their root set; without roots no cause is found.

    ``considered``: sentences about causes for which the evidence did not suffice.
    """

    symptoms: tuple[Symptom, ...]
    roots: tuple[DiagnosedRoot, ...] = ()
    considered: tuple[str, ...] = ()

    @property
    def class_(self) -> IncidentClass:
        """The class of the root that explains most."""
        if not self.roots:
            return NO_CAUSE
        return max(self.roots, key=lambda root: (len(root.paths), root.component)).class_


class _Candidate(msgspec.Struct):
    component: str
    evidence: list[tuple[Symptom, Mechanism]]
    covers: dict[Symptom, tuple[str, ...]]

    @property
    def first(self) -> Symptom:
        return min(one for one, _ in self.evidence)

    @property
    def own(self) -> set[Symptom]:
        return {one for one, _ in self.evidence if one.signal not in CONTEXT}

    @property
    def class_(self) -> IncidentClass:
        return min(self.evidence, key=lambda pair: MECHANISMS.index(pair[1]))[1].class_


def explain(
    found: Iterable[Symptom], topology: Topology, changes_a_day: Mapping[str, float] | None = None
) -> tuple[Diagnosis, ...]:
    """Diagnoses of the symptoms of one moment, the earliest first.

    Args:
        found: symptoms, facts and context.
        changes_a_day: how many changes a component usually has in a day; one where it is not said.
    """
    everything = sorted(set(found))
    symptoms = [one for one in everything if one.signal not in CONTEXT]
    if not symptoms:
        return ()
    candidates, considered = _likely(_candidates(everything, topology), symptoms, changes_a_day or {})
    candidates += _implied(symptoms, candidates, topology)
    candidates = _without_effects(candidates)
    roots = [one for one in candidates if one.own]
    explained = {one for root in roots for one in root.covers}
    chosen, equal = _needed([one for one in candidates if not one.own], set(symptoms) - explained)
    return _grouped(symptoms, roots + chosen, considered + equal, topology)


def _candidates(everything: Sequence[Symptom], topology: Topology) -> list[_Candidate]:
    found: dict[str, _Candidate] = {}
    reached: dict[str, dict[str, tuple[str, ...]]] = {}
    for symptom in everything:
        for mechanism in MECHANISMS:
            kind = symptom.component.partition("/")[0]
            if mechanism.evidence != symptom.signal or (mechanism.kinds and kind not in mechanism.kinds):
                continue
            component = _root_of(symptom, mechanism, topology)
            if component not in reached:
                reached[component] = topology.reached(component)
            paths = _paths(component, mechanism, reached[component], topology)
            covers = {
                one: paths[one.component]
                for one in everything
                if one.component in paths
                and (one.signal in mechanism.effects or one == symptom)
                and may_precede(mechanism, symptom.since, one.since)
            }
            covers[symptom] = paths.get(symptom.component, (component, symptom.component))
            if not is_enough(mechanism, symptom, covers):
                continue
            known = found.setdefault(component, _Candidate(component, [], {}))
            known.evidence.append((symptom, mechanism))
            known.covers |= covers
    return [found[name] for name in sorted(found)]


def _root_of(symptom: Symptom, mechanism: Mechanism, topology: Topology) -> str:
    """The component that is to blame for evidence: of data that is refused, their source, and of what gateways say of
    the main engine the one process that answers for it."""
    if mechanism.class_ == "data quality":
        view = symptom.component
        if view.startswith("stream/"):
            return f"source/{view.partition('/')[2]}"
        return topology.sources.get(view, view)
    if mechanism.evidence == "released":
        return f"release/{symptom.component.partition('/')[2]}"
    if symptom.component in (MAIN_ENGINE, LINK):
        return topology.engines[0] if len(topology.engines) == 1 else MAIN_ENGINE
    return symptom.component


def _paths(
    component: str, mechanism: Mechanism, reached: Mapping[str, tuple[str, ...]], topology: Topology
) -> Mapping[str, tuple[str, ...]]:
    if mechanism.reach == "load":
        return _load(component, topology)
    return {CATALOG: (component, CATALOG), **reached} if mechanism.reach == "lock" else reached


def _load(component: str, topology: Topology) -> dict[str, tuple[str, ...]]:
    """Paths along which load is felt: through the gateway's queue, the engines, and the machine."""
    paths = {component: (component,), HOST: (component, HOST)}
    paths.setdefault(GATEWAY, (component, GATEWAY))
    paths.setdefault(LINK, (component, GATEWAY, LINK))
    paths.setdefault(APPLICATIONS, (component, GATEWAY, APPLICATIONS))
    for engine in topology.engines:
        paths[engine] = (component, engine)
    for other in topology.applications:
        paths.setdefault(other, (component, GATEWAY, other))
    return paths


def _implied(symptoms: Sequence[Symptom], candidates: Sequence[_Candidate], topology: Topology) -> list[_Candidate]:
    """An engine that tells nothing of itself, as a server elsewhere, by what fails behind it.

    Only where it is the one engine, some application's requests fail by it, and every application that has any
    symptom of users has one that an engine can cause.
    """
    if len(topology.engines) != 1 or any(one.component in topology.engines for one in candidates):
        return []
    (engine,) = topology.engines
    single = [one for one in symptoms if one.component != APPLICATIONS]
    hit = [one for one in single if one.signal in _OF_ENGINES]
    applications = {one.component for one in single if one.signal in _USERS}
    failing = {one.component for one in hit if one.signal == "engine_errors"}
    if not failing or applications != {one.component for one in hit}:
        return []
    if len(failing) < 2 and len(topology.applications) > 1:
        return []
    first = min(one for one in hit if one.signal == "engine_errors")
    mechanism = next(one for one in MECHANISMS if one.evidence == "breaker")
    paths = topology.reached(engine)
    covers = {
        one: paths[one.component]
        for one in symptoms
        if one.component in paths and one.signal in mechanism.effects and may_precede(mechanism, first.since, one.since)
    }
    return [_Candidate(engine, [(first, mechanism)], covers)]


def _without_effects(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Candidates whose evidence no other one explains; of two that explain each other, the one that began first."""

    def is_effect(one: _Candidate, other: _Candidate) -> bool:
        mine, theirs = {symptom for symptom, _ in one.evidence}, {symptom for symptom, _ in other.evidence}
        if not mine <= other.covers.keys() - theirs:
            return False
        mutual = theirs <= one.covers.keys() - mine
        return not mutual or (other.first.since, other.component) < (one.first.since, one.component)

    return [one for one in candidates if not any(is_effect(one, other) for other in candidates if other is not one)]


def _likely(
    candidates: Sequence[_Candidate], symptoms: Sequence[Symptom], changes_a_day: Mapping[str, float]
) -> tuple[list[_Candidate], list[str]]:
    """The candidates but for changes that may have come so near by chance, and a sentence about each of these."""
    found, considered = [], []
    for one in candidates:
        evidence, mechanism = min(one.evidence, key=lambda pair: pair[0])
        effects = [symptom for symptom in one.covers if symptom in symptoms]
        if mechanism.change and not one.own and effects:
            chance = by_chance(abs(min(effects).since - evidence.since), changes_a_day.get(one.component, 1.0))
            if chance > UNLIKELY:
                considered.append(
                    f"{evidence.sentence} It may be chance that it was so near (probability {chance:.2f})."
                )
                continue
        found.append(one)
    return found, considered


def _needed(context: Sequence[_Candidate], left: set[Symptom]) -> tuple[list[_Candidate], list[str]]:
    """The fewest of the changes and loads that explain what is left, and sentences about those of which none is blamed
    because others explain the same."""
    useful = [one for one in context if one.covers.keys() & left]
    explicable = {symptom for one in useful for symptom in one.covers} & left
    for size in range(1, min(3, len(useful)) + 1):
        best = [
            some
            for some in combinations(useful, size)
            if {symptom for one in some for symptom in one.covers} & left == explicable
        ]
        # Loads add up: of several that are each enough, none is innocent.
        if len(best) == 1 or (best and all(one.class_ == "overload" for some in best for one in some)):
            return [one for one in useful if any(one in some for some in best)], []
        if best:
            names = {one.first.sentence for some in best for one in some}
            return [], [f"{name} Something else explains as much." for name in sorted(names)]
    return [], []


def _together(one: _Candidate, other: _Candidate, topology: Topology) -> bool:
    return (
        one.class_ == other.class_
        and abs(one.first.since - other.first.since) <= SLACK
        and bool(topology.reached(one.component).keys() & topology.reached(other.component).keys())
    )


def _grouped(
    symptoms: Sequence[Symptom], roots: Sequence[_Candidate], considered: Sequence[str], topology: Topology
) -> tuple[Diagnosis, ...]:
    groups: list[tuple[set[Symptom], list[_Candidate]]] = []
    for root in roots:
        mine = {one for one in root.covers if one in symptoms}
        if not mine:
            continue
        together, own = mine, [root]
        for group in [
            one for one in groups if one[0] & mine or any(_together(root, other, topology) for other in one[1])
        ]:
            groups.remove(group)
            together, own = together | group[0], own + group[1]
        groups.append((together, own))
    known = {one for group, _ in groups for one in group}
    # Callers make mistakes by themselves: these are told only with a cause.
    left = [one for one in symptoms if one not in known and (one.signal not in SIGNALS or SIGNALS[one.signal].alone)]
    found = [
        Diagnosis(
            tuple(sorted(group)),
            tuple(_root(one, group) for one in sorted(own, key=lambda one: (one.first.since, one.component))),
        )
        for group, own in groups
    ]
    if left:
        found.append(Diagnosis(tuple(left), (), tuple(considered)))
    return tuple(sorted(found, key=lambda one: one.symptoms[0]))


def _root(candidate: _Candidate, group: set[Symptom]) -> DiagnosedRoot:
    paths = {path for one, path in candidate.covers.items() if one in group and len(path) > 1}
    evidence = {one for one, _ in candidate.evidence}
    return DiagnosedRoot(candidate.component, candidate.class_, tuple(sorted(evidence)), tuple(sorted(paths)))
