"""``antiphon status``: how the project is doing, from its catalog and its processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import moment, short_fingerprint, show, table
from antiphon.cli.project import at_terminal, services

if TYPE_CHECKING:
    from antiphon.gateway.admin.shapes import Status
    from antiphon.services.features.view_status import ViewStatus


def status(project: Project = HERE, as_json: Json = False) -> None:
    """Processes, engine, publication, freshness, streams and jobs."""
    from antiphon.gateway.admin.status import status as status_of
    from antiphon.gateway.measurements import GatewayMetrics

    async def read() -> Status:
        async with services(project) as (ports, store):
            return await status_of(ports, GatewayMetrics(), store.scope, at_terminal(store))

    found = asyncio.run(read())
    show(found, as_json, lambda: _text(found))


def _text(found: Status) -> str:
    load = found.engine.load
    runs = any(process.alive for process in found.processes)
    engine = (
        found.engine.stopped.sentence
        if found.engine.stopped
        else f"{load.running_online} online + {load.running_batch} batch of {load.slots} slots"
        if load
        else found.engine.reason
        if runs
        else "not running"
    )
    parts = [
        *(() if runs else ("Nothing runs here: `antiphon up` starts it.",)),
        f"{found.tenant}/{found.environment}   publication {found.publication or '-'}   engine: {engine}",
        "applications and models: " + ", ".join(found.applications),
        *(f"{one.application}: release {one.number} {_gates(one)}" for one in found.gates),
        *(_drifted(one) for one in found.drift),
        *(f"A chaos experiment is under way: {one}" for one in found.faults),
        table(
            ("process", "pid", "state", "minutes", "restarts", "MB", "nice"),
            [
                (
                    process.name,
                    process.pid,
                    f"{process.state}: {process.detail}" if process.detail else process.state,
                    round((found.at - process.started_at).total_seconds() / 60) if process.alive else None,
                    process.restarts,
                    round(process.resident_bytes / 1e6) if process.resident_bytes else None,
                    process.nice,
                )
                for process in found.processes
            ]
            + [
                (engine.name, None, "answers" if engine.answers else "away", None, None, None, None)
                for engine in found.elsewhere
            ],
            "no process",
        ),
    ]
    if found.broken:
        parts.append(
            table(
                ("broken part of a worker", "failures in a row", "begun again after"),
                [(one.name, one.failures, one.error) for one in found.broken],
            )
        )
    if found.engine.instances:
        parts.append(engines_table(found.engine.instances))
    if found.remote_models:
        parts.append(remote_models_table(found.remote_models))
    if found.reuse:
        parts.append(reuse_table(found.reuse))
    if found.freshness:
        parts.append(freshness_table(found.freshness))
    if found.streams:
        parts.append(streams_table(found.streams))
    if found.jobs:
        parts.append(
            table(
                ("job", "application", "status", "done", "failed", "total"),
                [
                    (job.id, job.application, job.status, job.rows_done, job.rows_failed, job.total)
                    for job in found.jobs
                ],
            )
        )
    return "\n\n".join(parts)


def _drifted(one: Any) -> str:
    return (
        f"{one.application}: drift since {moment(one.since)}: {', '.join(one.variables)}; "
        f"`antiphon outcomes drift {one.application} --kept`"
    )


def _gates(check: Any) -> str:
    return f"is {check.sentence}" if check.state == "checking" else str(check.sentence)


def engines_table(instances: Any) -> str:
    """Lists the engines that have joined."""
    return table(
        ("engine", "address", "state", "online", "batch", "waiting", "slots", "models"),
        [
            (
                one.name,
                one.address or "this machine",
                "away" if not one.answers else "drained" if one.drained else "answers",
                one.load.running_online,
                one.load.running_batch,
                one.load.waiting_online + one.load.waiting_batch,
                one.load.slots,
                ", ".join(f"{name} {short_fingerprint(name, text)[:8]}" for name, text in one.models.items()),
            )
            for one in instances
        ],
    )


def remote_models_table(models: Any) -> str:
    """Lists the models behind servers elsewhere, and below those that have changed under a live release."""
    return table(
        ("remote model", "engine", "version", "known by", "since", "checked", "before"),
        [(one.model, one.engine, one.version, one.evidence, one.since, one.checked_at, one.before) for one in models],
    ) + "".join(f"\n{line}" for one in models for line in _changes(one))


def reuse_table(reuse: Any) -> str:
    """Lists by application the share of the last hour's online answers that were not generated."""
    return table(
        ("answers, last hour", "answers", "stored", "identical", "hit rate", "tokens saved", "fallback", "degraded"),
        [
            (
                one.application,
                one.answers,
                one.stored,
                one.identical_prompts,
                f"{one.hit_rate:.1%}",
                one.saved_tokens,
                one.fallback,
                one.degraded,
            )
            for one in reuse
        ],
    )


def streams_table(streams: Any) -> str:
    """Streams, a line for each view that follows one."""
    from antiphon.gateway.dashboard.wording import duration

    head = ("stream", "view", "consumed", "end", "lag", "for", "event time", "late", "by up to", "rejected", "workers")
    return table(
        head,
        [
            (
                stream.stream,
                f"{view.view} {view.definition_version[:8]}",
                view.consumed,
                stream.end,
                view.lag,
                duration(view.lag_seconds) if view.lag else None,
                view.watermark,
                view.late,
                duration(view.lateness_seconds) if view.late else None,
                view.rejected,
                ", ".join(f"{worker} ({_ranges(parts)})" for worker, parts in stream.workers.items()) or None,
            )
            for stream in streams
            for view in stream.views
        ],
        "No applied view follows a stream.",
    ) + "".join(f"\n{line}" for stream in streams for line in _stream_lines(stream))


def _stream_lines(stream: Any) -> Iterator[str]:
    """The problem of a stream, and the progress of its follower."""
    from antiphon.gateway.dashboard.wording import duration

    if stream.problem:
        yield f"{stream.stream}: {stream.problem}"
    follower = stream.follower
    if follower is None:
        return
    if follower.behind_seconds is None:
        reached = "has not been read from its beginning yet"
    else:
        reached = f"is read through {moment(follower.caught_up_at)}, {duration(follower.behind_seconds)} ago"
    waiting = f", {follower.waiting} messages wait" if follower.waiting else ""
    late = f" LATE: rows are to count within {duration(follower.within_seconds)}." if follower.late else ""
    yield f"{stream.stream}: {follower.place} {reached}{waiting}.{late}"
    if follower.problem:
        yield f"{stream.stream}: fails since {moment(follower.failing_since)}: {follower.problem}"
    if follower.refused:
        yield f"{stream.stream}: {follower.refused} rows are no events; of the last one {follower.refusal}."
    if follower.lost:
        yield f"{stream.stream}: {follower.lost} messages were removed before they were read."


def _ranges(parts: Sequence[int]) -> str:
    """Partitions as ``0-3, 6``."""
    found: list[list[int]] = []
    for part in parts:
        if found and found[-1][-1] == part - 1:
            found[-1][1:] = [part]
        else:
            found.append([part])
    return ", ".join("-".join(map(str, one)) for one in found)


def freshness_table(views: Any) -> str:
    """Views with their age in words."""
    from antiphon.gateway.dashboard.wording import duration

    return table(
        ("view", "version", "refreshed", "as of", "rows", "source", "gates"),
        [
            (
                view.view,
                view.definition_version[:8],
                "never" if view.age_seconds is None else f"{duration(view.age_seconds)} ago",
                view.as_of,
                view.rows,
                None if view.source_quality is None else f"{view.source_quality:.1%}",
                view.verdict,
            )
            for view in views
        ],
        "No view is published yet; the worker publishes them soon after `antiphon up`.",
    ) + "".join(f"\n{_blocked(view)}" for view in views if view.blocked)


def status_table(views: Sequence[ViewStatus]) -> str:
    """A line for each view, and below the reasons why any is not fresh."""
    from antiphon.gateway.dashboard.wording import duration

    now = datetime.now(UTC)
    rows = [
        (
            view.view,
            view.definition_version[:8],
            view.state,
            None if view.snapshot is None else view.snapshot[:15],
            view.as_of,
            None if view.age_seconds is None else duration(view.age_seconds),
            ", ".join(f"{name} {duration(seconds)}" for name, seconds in view.contracts.items()) or None,
            None if view.next_refresh is None else f"in {duration((view.next_refresh - now).total_seconds())}",
            view.lag,
            ",".join(view.keys),
            view.source,
            ", ".join(view.features),
        )
        for view in views
    ]
    head = (
        "view", "version", "state", "snapshot", "as of", "age", "may be", "next", "lag", "keys", "source", "features",
    )  # fmt: skip
    return "\n".join([table(head, rows, "Nothing is applied."), *(said for view in views for said in _problems(view))])


def _changes(one: Any) -> Iterator[str]:
    why = f": {one.reason}" if one.reason else ""
    if one.refused:
        yield f"{one.model}: refused{why}. `antiphon models accept {one.model} --reason …` has it served."
    for release in one.outdated:
        yield (
            f"{one.model}: another model since {moment(one.since)} than when {release} was made live{why}. "
            f"`antiphon releases validate {release}` evaluates it as it is now."
        )


def _blocked(view: Any) -> str:
    stays = "the one before stays" if view.snapshot else "nothing is published"
    return (
        f"{view.view}: its last version is blocked, {stays}: {' '.join(view.blocked)} "
        f"`antiphon features describe {view.view}` shows its rules; correct the source and refresh."
    )


def _problems(view: ViewStatus) -> Iterator[str]:
    if view.skew is not None and view.skew.different:
        yield (
            f"{view.view}: {view.skew.different} of {view.skew.compared} values that are read online are not what "
            f"batch computes, since or before {moment(view.skew.measured_at)}: `antiphon features skew {view.view}`"
        )
    if view.blocked:
        yield _blocked(view)
    if view.held is not None:
        yield f"{view.view}: held: {view.held}"
    if view.stale_for:
        yield f"{view.view}: too old for {', '.join(view.stale_for)}"
    if view.staged_until is not None:
        yield f"{view.view}: a version waits for the end of its embargo at {moment(view.staged_until)}"
    if view.quarantined:
        yield f"{view.view}: {view.quarantined} source rows are kept aside"
