"""Backtests a playbook on recorded incidents: what it would have done once a cause was blamed, held against the causes
that were left when the incident was over. Pure.

An incident is judged by its end: causes that were blamed first and dropped later were innocent. What is recorded of its
course is when each cause was blamed, and since when each symptom lasted; its severity counts as it was at the end.
Of a playbook that comes after another one, incidents count in which that would have acted too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from antiphon.catalog.incidents import NO_CAUSE, Incident, RootCause
from antiphon.definitions.playbooks import PlaybookSpec
from antiphon.operations.playbooks.fitting import PlaybookFit, fit


class BacktestCase(msgspec.Struct, frozen=True):
    """An incident in which a playbook would have acted.

    Attributes:
        components: that it would have acted upon; ``innocent`` those of them that were no cause in the end.
        right: none was innocent, and the incident is one that the playbook is for.
    """

    incident: str
    title: str
    components: tuple[str, ...]
    innocent: tuple[str, ...]
    right: bool


class Backtest(msgspec.Struct, frozen=True):
    """The cases of a playbook among so many incidents that are over.

    Attributes:
        missed: incidents that it is for in the end, in which it would not have acted at first.
        turn: when its turn is, of one that comes after another; ``turns``: cases in which that came, by the record.
    """

    playbook: str
    incidents: int
    cases: tuple[BacktestCase, ...]
    missed: tuple[str, ...]
    least_cases: int
    most_wrong: float
    turn: str = ""
    turns: int = 0

    @property
    def right(self) -> int:
        """Cases in which it would have been right."""
        return sum(one.right for one in self.cases)

    @property
    def innocents(self) -> int:
        """Components that it would have acted upon without need."""
        return sum(len(one.innocent) for one in self.cases)

    @property
    def passed(self) -> bool:
        """True when there were enough cases, and it was wrong in few enough of them."""
        return len(self.cases) >= self.least_cases and len(self.cases) - self.right <= self.most_wrong * len(self.cases)

    @property
    def sentence(self) -> str:
        """The result in words."""
        turns = f" Its turn is {self.turn}, which was so in {self.turns} of these cases." if self.turn else ""
        return (
            f"It would have acted in {len(self.cases)} of {self.incidents} incidents, rightly in {self.right}, and "
            f"upon {self.innocents} components that were no cause. To act alone it takes {self.least_cases} cases "
            f"of which at most {self.most_wrong:.0%} are wrong.{turns}"
        )


def backtest(
    playbook: PlaybookSpec,
    incidents: Iterable[Incident],
    before: Sequence[PlaybookSpec] = (),
    turns: Collection[str] = (),
) -> Backtest:
    """Play a playbook over the incidents that are over.

    Args:
        before: the playbooks that it comes after.
        turns: incidents in which the run of the nearest of them ended as it takes.
    """
    over = [one for one in incidents if not one.active]
    cases: list[BacktestCase] = []
    missed: list[str] = []
    for incident in over:
        final, found = _fit(playbook, before, incident), _fit(playbook, before, as_first_blamed(incident))
        if found is None:
            missed += [incident.id] if final is not None else []
            continue
        causes = {root.component for root in incident.roots} or {one.component for one in incident.symptoms}
        innocent = tuple(one for one in found.components if one not in causes)
        right = not innocent and final is not None
        cases.append(BacktestCase(incident.id, incident.title, found.components, innocent, right))
    return Backtest(
        playbook.name, len(over), tuple(cases), tuple(missed), playbook.least_cases, playbook.most_wrong,
        playbook.turn, sum(one.incident in turns for one in cases),
    )  # fmt: skip


def _fit(playbook: PlaybookSpec, before: Sequence[PlaybookSpec], incident: Incident) -> PlaybookFit | None:
    if any(fit(one, incident) is None for one in before):
        return None
    return fit(playbook, incident)


def as_first_blamed(incident: Incident) -> Incident:
    """An incident as it stood when its first causes were blamed; as it is, where none ever was."""
    blamed = [one for one in incident.timeline if one.kind == "cause" and one.component]
    if not blamed:
        return msgspec.structs.replace(incident, roots=(), class_=NO_CAUSE)
    at = min(one.at for one in blamed)
    symptoms = tuple(one for one in incident.symptoms if one.since <= at)
    known = {root.component: root.evidence for root in incident.roots}
    roots = tuple(
        RootCause(
            one.component,
            one.class_ or NO_CAUSE,
            (
                *(found for found in known.get(one.component, ()) if found.since <= at),
                *(symptom.evidence for symptom in symptoms if symptom.component == one.component),
            ),
        )
        for one in blamed
        if one.at == at
    )
    return msgspec.structs.replace(incident, roots=roots, symptoms=symptoms, class_=roots[0].class_)
