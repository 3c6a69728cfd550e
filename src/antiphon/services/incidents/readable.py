"""Incidents, what was done about them and what was said, as somebody may read it: applications that policy keeps from
the reader are not named. Pure.

Invariant: names are left out of every text and component, counts and times stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

import msgspec

from antiphon.catalog.incidents import Incident, IncidentEvidence
from antiphon.catalog.notifications import Notification
from antiphon.catalog.playbooks import PlaybookRun

ANOTHER = "another application"
"""Stands for an application that the reader may not read."""

_OF_APPLICATIONS = ("application", "release")
"""Kinds of components that bear an application's name."""


def applications_of(incident: Incident) -> frozenset[str]:
    """Applications that an incident names as such."""
    found = (component.partition("/") for component in _components(incident))
    return frozenset({name for kind, _, name in found if kind in _OF_APPLICATIONS}.union(incident.applications))


def without_names(text: str, hidden: Collection[str], known: Collection[str] = ()) -> str:
    """A text in which hidden applications are :data:`ANOTHER`.

    Args:
        known: further applications, whose names may have a hidden one within.
    """
    names = sorted({*hidden, *known}, key=lambda name: (-len(name), name))
    if not hidden:
        return text
    kinds = "|".join(_OF_APPLICATIONS)
    named = re.compile(rf"(?<!\w)((?:{kinds})/)?({'|'.join(map(re.escape, names))})(?!\w)")
    return named.sub(lambda match: ANOTHER if match[2] in hidden else match[0], text)


def readable(incident: Incident, hidden: Collection[str], known: Collection[str] = ()) -> Incident | None:
    """An incident without the names of hidden applications; ``None`` where all of its applications are hidden."""
    if incident.applications and all(name in hidden for name in incident.applications):
        return None
    if not hidden:
        return incident

    def said(text: str) -> str:
        return without_names(text, hidden, known)

    def evidence(one: IncidentEvidence) -> IncidentEvidence:
        changed = msgspec.structs.replace(one, component=said(one.component), sentence=said(one.sentence))
        if changed.component == one.component and (said(one.where), said(one.record)) == (one.where, one.record):
            return changed
        return msgspec.structs.replace(changed, measure="", where="", record="")  # They lead to what is hidden.

    replace = msgspec.structs.replace
    return replace(
        incident,
        title=said(incident.title),
        applications=tuple(ANOTHER if name in hidden else name for name in incident.applications),
        considered=tuple(map(said, incident.considered)),
        roots=tuple(
            replace(
                one, component=said(one.component), evidence=tuple(map(evidence, one.evidence)),
                paths=tuple(tuple(map(said, path)) for path in one.paths),
            )
            for one in incident.roots
        ),
        symptoms=tuple(
            replace(one, component=said(one.component), evidence=evidence(one.evidence)) for one in incident.symptoms
        ),
        timeline=tuple(
            replace(one, text=said(one.text), component=said(one.component)) for one in incident.timeline
        ),
    )  # fmt: skip


def _components(incident: Incident) -> Iterator[str]:
    for root in incident.roots:
        yield root.component
        for path in root.paths:
            yield from path
    yield from (one.component for one in incident.symptoms)
    yield from (one.component for one in incident.timeline)


class IncidentReader:
    """Shows incidents, runs of playbooks and notifications to one reader.

    Args:
        may_read: tells whether an application may be read.
        applications: those of the scope, which texts may name.
    """

    def __init__(self, may_read: Callable[[str], bool], applications: Collection[str]) -> None:
        self._may_read = may_read
        self._applications = frozenset(applications)
        self._known: dict[str, bool] = {}

    def shown(self, incident: Incident) -> Incident | None:
        """An incident as the reader may read it; ``None`` where they may not."""
        known = self._applications | applications_of(incident)
        return readable(incident, self._hidden(known), known)

    def said(self, text: str) -> str:
        """A text about incidents."""
        known = self._applications | self._known.keys()
        return without_names(text, self._hidden(known), known)

    def acted(self, run: PlaybookRun) -> PlaybookRun:
        """A playbook's run for an incident that was shown."""
        replace = msgspec.structs.replace
        return replace(
            run, cause=self.said(run.cause), reason=self.said(run.reason), problem=self.said(run.problem),
            plan=tuple(replace(one, target=self.said(one.target)) for one in run.plan),
            outcomes=tuple(
                replace(one, target=self.said(one.target), sentence=self.said(one.sentence)) for one in run.outcomes
            ),
        )  # fmt: skip

    def notified(self, one: Notification) -> Notification | None:
        """A notification; ``None`` where it is about an application that the reader may not read."""
        if one.application is not None and self._hidden({one.application}):
            return None
        link = one.link if one.link is None or self.said(one.link) == one.link else None
        return msgspec.structs.replace(
            one, title=self.said(one.title), text=self.said(one.text), link=link,
            labels={name: self.said(value) for name, value in one.labels.items()},
            public=None if one.public is None else self.said(one.public),
        )  # fmt: skip

    def _hidden(self, names: Collection[str]) -> frozenset[str]:
        for name in names:
            if name not in self._known:
                self._known[name] = self._may_read(name)
        return frozenset(name for name in names if not self._known[name])
