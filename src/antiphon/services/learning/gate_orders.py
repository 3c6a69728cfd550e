"""Orders of gates: a durable run that holds a release against its gates and sends it on its way when it passed.

Invariant: an application has at most one such run that has not ended over what is applied, and one over what was
trained; the release that was declared or trained last counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.releases.releases import Release
from antiphon.core.errors import AntiphonError, ForbiddenError
from antiphon.core.scope import Scope
from antiphon.durable.run import ENDED, Run
from antiphon.governance.identity.principal import orderer
from antiphon.releases.candidate import NOT_PASSED
from antiphon.services.project.store import Store
from antiphon.services.rollouts import rollout_transitions
from antiphon.services.workflows import GATES

_LOOK_SECONDS = 0.2

Goal = Literal["live", "rollout", "validated"]
"""The end of a release that passes its gates: with everybody, in its declared rollout, or validated for a person."""

SCANNED_RUNS = 500
"""The latest runs of gates that are looked through for one of a release."""


class GatesError(AntiphonError):
    """A release did not pass its gates and stays a draft; what was live goes on answering."""

    code = "gates_not_passed"


class GateArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release that waits for its gates.

    Attributes:
        instead_of: the release that was live when it was ordered; with another one live it stays validated.
        goal: where it goes by passing; one that nothing could be compared with goes live in place of a rollout.
        principal: who ordered it, and why.
        trained: whether a training made it. held: why it stays validated when it passes.
        ordered_by: the run that ordered it, if one did.
    """

    application: str
    release: str
    number: int
    instead_of: str | None
    goal: Goal
    principal: str
    reason: str
    trained: bool = False
    held: str = "another person makes it live"
    ordered_by: str | None = None


class GatesRunResult(msgspec.Struct, frozen=True):
    """The end of a run of gates.

    Attributes:
        on: the evaluation or safety report that decided; ``None`` when nothing could be measured.
        reasons: why it did not pass, a sentence each.
        live: whether it went live. ``rollout``: the one that it began. ``note`` says why neither where it passed.
    """

    passed: bool
    on: str | None
    reasons: tuple[str, ...] = ()
    live: bool = False
    rollout: str | None = None
    note: str = ""


class GateCheck(msgspec.Struct, frozen=True):
    """The latest run of gates over a release, for people.

    Attributes:
        state: ``checking``, ``passed``, ``failed`` (a gate did not pass), ``stopped`` (canceled or superseded) or
            ``broken`` (the run itself failed).
        sentence: how far it is, or why it ended so. ``rollout``: the one that began by it.
    """

    application: str
    release: str
    number: int
    run: str
    state: str
    sentence: str
    rollout: str | None = None


def order_gates(store: Store, arguments: GateArguments, connection: Connection) -> str:
    """Queue a run of gates in place of any other of the application, and return it; the one under way for the same
    release goes on."""
    same: str | None = None
    for run in open_gates(store, within=connection):
        other = arguments_of(run)
        if (other.application, other.trained) != (arguments.application, arguments.trained):
            continue
        if same is None and not run.cancel_requested and _what(other) == _what(arguments):
            same = run.id
        else:
            store.runs.cancel(store.scope, run.id, within=connection)
    if same is not None:
        return same
    return store.runs.submit(store.scope, GATES, msgspec.to_builtins(arguments), within=connection)


def order_checks(
    store: Store, release: Release, rollout: bool, principal: str, reason: str, connection: Connection
) -> str:
    """As :func:`order_gates`, of a release that was trained: once it passed it is validated, or begins its rollout,
    where policy lets its orderer send it on its way alone."""
    application, scope = release.bundle.application.name, release.scope
    live = store.releases.live(scope, application, within=connection)
    goal: Goal = "rollout" if rollout and live is not None else "validated"
    held = f"`antiphon releases rollout {release.id}` sends it on its way"
    if goal == "rollout":
        by = orderer(principal, scope.tenant)
        try:
            rollout_transitions(store).require_permission(
                scope, application, release.id, reason=reason, by=by, within=connection
            )
        except ForbiddenError as error:
            goal, held = "validated", f"{held}: {error.what.rstrip('.')}"
    order = GateArguments(
        application, release.id, release.number, None if live is None else live.id, goal, principal, reason,
        trained=True, held=held,
    )  # fmt: skip
    return order_gates(store, order, connection)


def open_gates(store: Store, *, within: Connection | None = None) -> list[Run]:
    """Runs of gates that have not ended, the latest first."""
    return store.runs.open(store.scope, GATES, within=within)


def cancel_gates(store: Store, kept: frozenset[str], connection: Connection) -> None:
    """Cancel every run of gates but those over these releases: other definitions were applied since."""
    for run in open_gates(store, within=connection):
        if arguments_of(run).release not in kept:
            store.runs.cancel(store.scope, run.id, within=connection)


def arguments_of(run: Run) -> GateArguments:
    """The order that a run of gates carries out."""
    return msgspec.convert(run.arguments, GateArguments)


def gate_checks(store: Store, scope: Scope) -> list[GateCheck]:
    """The latest run of gates of each application over what is applied now, by name."""
    latest: dict[str, Run] = {}
    applied = store.applied.current(scope)
    for run in store.runs.list(scope, SCANNED_RUNS, workflow=GATES):
        if arguments_of(run).trained:
            continue
        if run.status not in ENDED or applied is None or run.created_at >= applied.created_at:
            latest.setdefault(arguments_of(run).application, run)
    return [described_check(run) for _, run in sorted(latest.items())]


def check_of(store: Store, scope: Scope, release: str) -> GateCheck | None:
    """The latest run of gates over a release; ``None`` without one."""
    runs = store.runs.list(scope, SCANNED_RUNS, workflow=GATES)
    found = next((run for run in runs if arguments_of(run).release == release), None)
    return None if found is None else described_check(found)


def await_gates(store: Store, runs: Iterable[str], tell: Callable[[GateCheck], None]) -> list[GateCheck]:
    """Wait until runs of gates have ended, which is the worker's work; how each ended. Whoever stops waiting changes
    nothing.

    Args:
        tell: called with each whenever it was looked at.
    """
    ended = []
    for run in runs:
        while (found := described_check(store.runs.get(store.scope, run))).state == "checking":
            tell(found)
            time.sleep(_LOOK_SECONDS)
        ended.append(found)
    return ended


def refusal(check: GateCheck) -> GatesError:
    """The error of a release that did not go live, with the next step."""
    return GatesError(
        f"{check.application}: release {check.number} {check.sentence.rstrip('.')}. What was live goes on answering.",
        where=check.release,
        next_step=f"`antiphon releases show {check.release}` has every gate. Mend the definitions and apply them, "
        "declare gates of your own or why there are none (`ungated=`), or go past them: "
        f"`antiphon releases activate {check.application} {check.release} --force --reason …`.",
    )


def described_check(run: Run) -> GateCheck:
    """A run of gates in words."""
    order = arguments_of(run)

    def described(state: str, sentence: str, rollout: str | None = None) -> GateCheck:
        return GateCheck(order.application, order.release, order.number, run.id, state, sentence, rollout)

    if run.status not in ENDED:
        return described("checking", f"being checked: {_progress(run)}")
    if run.status == "succeeded":
        result = msgspec.convert(run.result, GatesRunResult)
        if result.passed:
            by = "every gate passed that needs no evaluation set" if result.note else "every gate passed"
            began = "went live" if result.live else "began its rollout" if result.rollout else None
            return described("passed", f"{began}: {by}" if began else result.note, result.rollout)
        return described("failed", f"{NOT_PASSED}: {' '.join(result.reasons)}")
    if run.status == "cancelled":
        return described("stopped", "no longer checked: it was canceled, or another release took its place")
    return described("broken", f"could not be checked: {run.error}")


def _progress(run: Run) -> str:
    if run.status == "queued":
        waits = "waits for the worker of `antiphon up`"
        return f"{waits} after {run.error}" if run.error else waits
    return f"{run.note} ({run.done} of {run.total})" if run.total else run.note or "begins"


def _what(arguments: GateArguments) -> tuple[Any, ...]:
    return arguments.release, arguments.instead_of, arguments.goal
