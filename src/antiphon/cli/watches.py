"""``antiphon releases watch``: what is watched of live releases, the evidence so far, and what was decided."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from antiphon.cli.options import HERE, Json, OnlyApplication, Project
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import require_application, stores

if TYPE_CHECKING:
    from antiphon.services.watching.report import ReleaseWatchReport

_HEAD = ("measure", "action", "status", "evidence", "decides at", "seen")


def watch(application: OnlyApplication = "", project: Project = HERE, as_json: Json = False) -> None:
    """Show what is watched of live releases, the evidence so far, and why one was rolled back or was not."""
    from antiphon.services.watching.report import ProjectWatches

    with stores(project) as store:
        watches = ProjectWatches(store, store.scope)
        names = [application] if application else store.releases.applications(store.scope)
        found = [report for name in names if (report := watches.live(name)) is not None]
        past = {name: watches.decisions(name, 10) for name in names}
        if application and not found:
            require_application(store, application)
    value = [{"live": one, "decisions": past[one.application]} for one in found]
    show(value, as_json, lambda: "\n\n".join("\n".join(_text(one, past[one.application])) for one in found) or _NONE)


_NONE = "Nothing is live: a release goes live when it has passed its gates."


def watched(report: ReleaseWatchReport) -> list[dict[str, Any]]:
    """The measures of a release as ``releases show`` prints them."""
    return [
        {"measure": one.title, "action": one.action.replace("_", " "), "status": one.status, "seen": one.sentence}
        for one in report.measures
    ]


def _text(found: ReleaseWatchReport, decisions: Any) -> Iterator[str]:
    mode = {"act": "acts as declared", "tell": "is a dry run", "off": "is off"}[found.watch.mode]
    since = f"live since {moment(found.since)}, looked at {moment(found.read_at)}" if found.since else "no look yet"
    yield f"{found.application}: {found.release}, {since}; the watch {mode}, α {found.watch.alpha:g}"
    rows = [
        (one.title, one.action.replace("_", " "), one.status, one.evidence, one.bound, one.sentence)
        for one in found.measures
    ]
    yield table(_HEAD, rows)
    for one in decisions:
        yield f"{moment(one.created_at)}  {one.release}  {one.decision.replace('_', ' ')}: {one.sentence}"
