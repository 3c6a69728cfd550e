"""``antiphon notifications``: channels that hear of operations, what they took, and a test."""

from __future__ import annotations

from typing import Annotated

import typer

from antiphon.cli.options import HERE, Json, Limit, Project, Reason
from antiphon.cli.output import moment, shortened, show, table
from antiphon.cli.project import allowed, stores

app = typer.Typer(
    name="notifications", help="Notifications by webhook, mail, Alertmanager and Slack.", no_args_is_help=True
)

Channel = Annotated[str, typer.Argument(help="The channel's name in the settings.")]


@app.command("list")
def list_channels(project: Project = HERE, as_json: Json = False) -> None:
    """The channels of the settings, with what waits for each and what it took."""
    from antiphon.services.notifications.delivery import NotificationSender

    with stores(project) as store:
        found = NotificationSender(store).statuses()
    head = (
        "channel", "kind", "receiver", "events", "from", "applications", "waiting", "sent", "failed", "last", "error",
    )  # fmt: skip
    rows = [
        (
            one.channel, one.kind, one.receiver, ", ".join(one.events) or "all", one.severity,
            ", ".join(one.applications) or "all", one.waiting, one.sent, one.failed, moment(one.last_sent),
            None if one.error is None else shortened(one.error, 60),
        )
        for one in found
    ]  # fmt: skip
    empty = "No channel: [notifications.NAME] in antiphon.toml declares one."
    show(found, as_json, lambda: table(head, rows, empty))


@app.command("test")
def send_test(
    channel: Channel, reason: Reason = "a test at the terminal", project: Project = HERE, as_json: Json = False
) -> None:
    """Send a test notification at once, and say what the receiver answered; it is on the audit record."""
    from antiphon.services.notifications.project_notifications import ProjectNotifications

    with stores(project) as store:
        who = allowed(store, "administer", f"notification/{channel}")
        answer = ProjectNotifications(store, store.scope).test(channel, who, reason)
    show({"channel": channel, "answer": answer}, as_json, lambda: f"{channel} took it: {answer}.")


@app.command("log")
def log(
    channel: Annotated[str, typer.Option("--channel", help="Of one channel.")] = "",
    limit: Limit = 50,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """The notifications that were sent or are to be, latest first, with what receivers answered."""
    from antiphon.services.notifications.delivery import NotificationSender

    with stores(project) as store:
        found = NotificationSender(store).log(channel or None, limit)
    head = ("at", "channel", "severity", "state", "title", "status", "answer", "attempts", "run", "error")
    rows = [
        (
            one.at, one.channel, one.severity, one.state, shortened(one.title or one.notification, 60), one.status,
            one.answer, one.attempts, one.run, None if one.error is None else shortened(one.error, 60),
        )
        for one in found
    ]  # fmt: skip
    show(found, as_json, lambda: table(head, rows, "Nothing was to be sent yet."))
