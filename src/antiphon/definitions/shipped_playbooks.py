"""The playbooks that every project has without declaring one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from antiphon.core.suggestions import nearest
from antiphon.definitions.place import CodeLocation
from antiphon.definitions.playbooks import Playbook, PlaybookSpec, PlaybookStep

_SHIPPED = (
    PlaybookSpec(
        "rerun-refresh",
        "Run a refresh that failed again",
        (PlaybookStep("rerun-refresh", wait="10s"),),
        classes=("data quality", "infrastructure", "no cause found"),
        signals=("refresh_failed", "run_failed"),
        mode="alone",
    ),
    PlaybookSpec(
        "restart-engine",
        "Restart an engine that stands still or has become slow",
        (PlaybookStep("restart-engine", most_per_hour=2),),
        classes=("infrastructure",),
        roots=("engine",),
        signals=("standstill", "silent", "pace", "memory", "breaker"),
        severity="warning",
        mode="alone",
    ),
    PlaybookSpec(
        "drain-engine",
        "Give an engine that is slow or grows no new requests, where restarting it failed",
        (PlaybookStep("drain-engine", most_per_hour=2),),
        classes=("infrastructure",),
        roots=("engine",),
        signals=("pace", "memory"),
        severity="warning",
        mode="alone",
        after="restart-engine",
    ),
    PlaybookSpec(
        "limit-batch",
        "Let one batch run at a time beside an engine that is slow or grows, where draining it failed",
        (PlaybookStep("limit-batch", ("incident-lasts", "no-freeze")),),
        classes=("infrastructure",),
        roots=("engine",),
        signals=("pace", "memory"),
        severity="warning",
        mode="alone",
        after="drain-engine",
    ),
    PlaybookSpec(
        "freeze-batch",
        "Freeze batch work while users wait",
        (PlaybookStep("freeze", ("incident-lasts", "no-freeze"), duration="1h"),),
        classes=("overload",),
        severity="warning",
        mode="alone",
    ),
    PlaybookSpec(
        "serve-precomputed",
        "Answer from store alone while an application is overloaded",
        (PlaybookStep("serve-precomputed", ("incident-lasts", "no-rollout"), duration="30m", most_per_hour=1),),
        classes=("overload",),
        roots=("application",),
        severity="critical",
    ),
    PlaybookSpec(
        "roll-back-features",
        "Publish the last good snapshot of a view again, and hold it",
        (PlaybookStep("roll-back-view"),),
        classes=("data quality",),
        roots=("view",),
        signals=("warned",),
        severity="warning",
    ),
    PlaybookSpec(
        "roll-back-release",
        "Roll back a release that users suffer from",
        (PlaybookStep("roll-back-release", ("incident-lasts", "no-rollout", "release-live"), most_per_hour=1),),
        classes=("change",),
        roots=("release",),
        signals=("released",),
        severity="warning",
        mode="alone",
        least_cases=10,
    ),
    PlaybookSpec(
        "rotate-key",
        "Rotate the key that most denied requests were sent with",
        (PlaybookStep("rotate-key", most_per_hour=1),),
        classes=("security",),
        signals=("denied",),
        severity="warning",
    ),
    PlaybookSpec(
        "page-person",
        "Page a person when nobody has taken a critical incident",
        (PlaybookStep("page", ("incident-lasts", "no-owner"), wait="10m", most_per_hour=20),),
        severity="critical",
        mode="alone",
    ),
)

SHIPPED: Mapping[str, PlaybookSpec] = {one.name: one for one in _SHIPPED}


def all_playbooks(declared: Mapping[str, PlaybookSpec]) -> Mapping[str, PlaybookSpec]:
    """Shipped and declared playbooks by name; a declared one takes the place of a shipped one."""
    return dict(sorted({**SHIPPED, **declared}.items()))


def chain(playbooks: Mapping[str, PlaybookSpec], name: str) -> tuple[PlaybookSpec, ...]:
    """The playbooks that one comes after, the nearest first; of a circle each once, the playbook itself at the end."""
    found: dict[str, PlaybookSpec] = {}
    next_ = playbooks[name].after
    while next_ in playbooks and next_ not in found:
        found[next_] = playbooks[next_]
        next_ = playbooks[next_].after
    return tuple(found.values())


def chain_mistakes(declared: Sequence[Playbook]) -> Iterator[tuple[CodeLocation, str]]:
    """Mistakes of ``after``, with their places: a playbook that is not there, and playbooks that wait in a circle."""
    if any(mistake for one in declared for mistake in one.mistakes()):
        return  # Those are told first.
    known = all_playbooks({one.name: one.spec for one in declared})
    for one in declared:
        after = one.spec.after
        if after and after not in known:
            hint = nearest(after, known, f"There are {', '.join(known)}.")
            yield one.place, f"playbook {one.name!r}: after: there is no playbook {after!r}. {hint}"
        names = [before.name for before in chain(known, one.name)]
        if one.name in names:
            circle = " after ".join([one.name, *names[: names.index(one.name) + 1]])
            yield one.place, f"playbook {one.name!r}: {circle}: none of them would ever begin. Take one `after` out."
