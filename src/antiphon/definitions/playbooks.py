"""Playbooks: the steps that mend a kind of incident, when they may be taken, and by whose leave.

A playbook is declared beside the applications and is no part of one, so that no release changes with it. Those of
:mod:`antiphon.definitions.shipped_playbooks` are there without a declaration; a declared one of the same name takes the
place of a shipped one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Literal, get_args

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.core.settings_notifications import Severity
from antiphon.definitions.place import caller, declared
from antiphon.definitions.workflows import WorkClass

IncidentClass = Literal[
    "data quality", "model drift", "infrastructure", "overload", "change", "security", "no cause found"
]

RootKind = Literal[
    "host", "catalog", "gateway", "worker", "online-store", "engine", "source", "stream", "view", "workflow",
    "application", "release", "definitions",
]  # fmt: skip
"""Kinds of components that are blamed, by the first part of their name."""

PlaybookMode = Literal["suggest", "approve", "alone"]

PlaybookAction = Literal[
    "rerun-refresh", "freeze", "limit-batch", "roll-back-view", "roll-back-release", "restart-engine", "drain-engine",
    "serve-precomputed", "rotate-key", "page",
]  # fmt: skip

PlaybookGuard = Literal["incident-lasts", "no-owner", "no-freeze", "no-rollout", "release-live"]
"""``incident-lasts``: a symptom is not over. ``no-owner``: nobody has taken the incident. ``no-freeze``: no freeze that
a person ordered lasts. ``no-rollout``: no rollout of the application is under way. ``release-live``: the release
that is blamed is the live one."""

PlaybookEnd = Literal["failed", "mended"]
"""``failed``: a step failed. ``mended``: its steps are done, or nothing was left to be done."""

StepUndo = Literal["at_end", "on_failure", "never"]

UNDOABLE: dict[str, StepUndo] = {
    "freeze": "at_end", "limit-batch": "at_end", "roll-back-view": "on_failure", "drain-engine": "at_end",
    "serve-precomputed": "at_end", "rotate-key": "on_failure",
}  # fmt: skip
"""Actions that can be undone, and when they are unless a step says otherwise."""

TARGETED: dict[str, tuple[RootKind, ...]] = {
    "roll-back-view": ("view",),
    "roll-back-release": ("release", "application"),
    "restart-engine": ("engine",),
    "drain-engine": ("engine",),
    "serve-precomputed": ("application", "release"),
}
"""Kinds of root that an action is about; the others are about no component, or about runs that the evidence names."""

_ENDS: dict[PlaybookEnd, str] = {"failed": "failed", "mended": "done its steps"}
_NAME = re.compile(r"[a-z][a-z0-9-]{0,59}\Z")
_MOST_STEPS = 20
_MOST_SLOTS = 64
_CHOICES: dict[str, tuple[str, ...]] = {"classes": get_args(IncidentClass), "roots": get_args(RootKind)}


class PlaybookStep(msgspec.Struct, frozen=True):
    """A step of a playbook.

    Attributes:
        only_if: guards. While the first two do not hold nothing more is to be done, and the playbook ends there; where
            another one does not, the playbook has failed and what can be undone is.
        wait: so long before it.
        most_per_hour: by any playbook of the tenant, or the playbook has failed.
        undo: ``at_end``: when the incident is resolved, or the playbook fails before. ``on_failure``: then alone.
            ``None``: as :data:`UNDOABLE` says.
        work: classes of work that a freeze or limit is about; without any the expensive ones, of a limit ``batch``.
        slots: of a limit: so many runs of that work are under way at once.
        duration: of a freeze, a limit, a drain or answers from store, which end by themselves; of a rotation, the time
            for which the present key still holds.
        key: of a rotation: the key's id, or the principal that has one key; without one the key that most denials name.
    """

    action: PlaybookAction
    only_if: tuple[PlaybookGuard, ...] = ("incident-lasts",)
    wait: str = "0s"
    most_per_hour: int = 3
    undo: StepUndo | None = None
    work: tuple[WorkClass, ...] = ()
    duration: str = "1h"
    slots: int = 1
    key: str = ""

    @property
    def undone(self) -> StepUndo:
        """The end at which it is undone."""
        return self.undo or UNDOABLE.get(self.action, "never")


class PlaybookSpec(msgspec.Struct, frozen=True):
    """A playbook.

    Attributes:
        classes, roots, signals: of the incidents that it is for: their class, the kinds of their causes, and the
            evidence at a cause, such as ``refresh_failed``; without any it is for all.
        severity: of the incidents that it is for, at least.
        mode: ``suggest``: a person begins it. ``approve``: it waits for a person's approval. ``alone``: it begins by
            itself, once it is trusted.
        after, once: it begins for an incident only once that other playbook's run for the same incident has ended so.
        cooldown: it does nothing about the same target for so long after it did.
        least_cases, most_wrong: a backtest in which it would have acted in so many recorded incidents, and been wrong
            in no greater share of them, makes it trusted.
        timeout: for all steps together.
    """

    name: str
    title: str
    steps: tuple[PlaybookStep, ...]
    classes: tuple[IncidentClass, ...] = ()
    roots: tuple[RootKind, ...] = ()
    signals: tuple[str, ...] = ()
    severity: Severity = "info"
    mode: PlaybookMode = "approve"
    after: str = ""
    once: PlaybookEnd = "failed"
    cooldown: str = "30m"
    least_cases: int = 5
    most_wrong: float = 0.05
    timeout: str = "1h"

    @property
    def harmless(self) -> bool:
        """True for one that only tells people: it needs no backtest."""
        return all(step.action == "page" for step in self.steps)

    @property
    def turn(self) -> str:
        """Its turn in words, such as "after calm, once it has failed"; empty for one that waits for no other."""
        return f"after {self.after}, once it has {_ENDS[self.once]}" if self.after else ""


class Playbook:
    """Declares a playbook; see :class:`PlaybookSpec` for the settings.

    Args:
        name: small letters, digits and hyphens.
        steps: :class:`PlaybookStep` in their order.
        settings: further fields of :class:`PlaybookSpec`, such as ``classes=["data quality"]``.
    """

    def __init__(self, name: str, steps: Sequence[PlaybookStep], **settings: Any) -> None:
        self.place = caller()
        self.name = name
        self.steps = steps
        self.settings = settings
        declared(self)

    @property
    def spec(self) -> PlaybookSpec:
        """The frozen value; a project checks it before."""
        given = {"title": self.name, **self.settings, "name": self.name, "steps": self.steps}
        return msgspec.convert(msgspec.to_builtins(given), PlaybookSpec)

    def mistakes(self) -> Iterator[str]:
        """Each mistake in a sentence."""
        label = f"playbook {self.name!r}"
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            yield f"{label}: its name is not small letters, digits and hyphens, such as 'mend-orders'."
            return
        known = [name for name in PlaybookSpec.__struct_fields__ if name not in ("name", "steps")]
        unknown = sorted(self.settings.keys() - set(known))
        yield from (f"{label}: there is no setting {name!r}; there are {', '.join(known)}." for name in unknown)
        steps = self.steps
        if not isinstance(steps, list | tuple) or not all(isinstance(step, PlaybookStep) for step in steps):
            yield f"{label}: steps is a list of PlaybookStep(…)."
            return
        if not 0 < len(steps) <= _MOST_STEPS:
            yield f"{label}: it has {len(steps)} steps; it may have from 1 to {_MOST_STEPS}."
        for name, allowed in _CHOICES.items():
            given = self.settings.get(name, ())
            if not isinstance(given, list | tuple):
                yield f"{label}: {name} is a list, of {', '.join(allowed)}."
                return
            yield from (
                f"{label}: {name}: {one!r} is none; there are {', '.join(allowed)}."
                for one in given if one not in allowed
            )  # fmt: skip
        if unknown:
            return
        try:
            spec = self.spec
        except msgspec.ValidationError as error:
            yield f"{label}: {error}."
            return
        yield from (f"{label}: {text}" for text in _mistakes(spec))


def _mistakes(spec: PlaybookSpec) -> Iterator[str]:
    if spec.least_cases < 1:
        yield "least_cases is a number from 1 on."
    if not 0 <= spec.most_wrong < 1:
        yield "most_wrong is a share from 0 to less than 1."
    if spec.once != "failed" and not spec.after:
        yield "once is about the playbook that it comes after: name that in after."
    yield from _durations("", cooldown=spec.cooldown, timeout=spec.timeout)
    for number, step in enumerate(spec.steps, 1):
        label = f"step {number} ({step.action}): "
        yield from _durations(label, wait=step.wait, duration=step.duration)
        if step.most_per_hour < 1:
            yield f"{label}most_per_hour is a number from 1 on."
        if not 1 <= step.slots <= _MOST_SLOTS:
            yield f"{label}slots is a number from 1 to {_MOST_SLOTS}."
        if step.undo not in (None, "never") and step.action not in UNDOABLE:
            yield f"{label}it cannot be undone; those that can are {', '.join(UNDOABLE)}."
        if step.action == "rotate-key" and spec.classes != ("security",):
            yield f"{label}keys are rotated for incidents of the class security alone: write classes=['security']."
        if "release-live" in step.only_if and step.action != "roll-back-release":
            yield f"{label}the guard release-live is of the step roll-back-release."
        if step.key and step.action != "rotate-key":
            yield f"{label}key is of the step rotate-key."
        kinds = TARGETED.get(step.action, ())
        if kinds and not set(kinds) & set(spec.roots):
            yield f"{label}it is about {' or '.join(kinds)}: name that in roots."


def _durations(label: str, **given: str) -> Iterator[str]:
    for name, text in given.items():
        try:
            length = parse_duration(text) if text != "0s" else timedelta()
        except InvalidInputError as error:
            yield f"{label}{name}: {error.what}"
            continue
        if length > timedelta(days=7):
            yield f"{label}{name} is {text}; it is 7d at most."
