"""``antiphon webhooks``: the URLs that are told of releases, what they took, and a test."""

from __future__ import annotations

from typing import Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show, table
from antiphon.cli.project import stores

app = typer.Typer(name="webhooks", help="Webhooks of the change log.", no_args_is_help=True)

SHOWN = 50
"""Latest deliveries that are looked at."""


@app.command("list")
def list_webhooks(project: Project = HERE, as_json: Json = False) -> None:
    """The webhooks of the settings, each with its latest delivery."""
    from antiphon.services.workflows import WEBHOOK

    with stores(project) as store:
        runs = store.runs.list(store.scope, SHOWN, workflow=WEBHOOK)
        lines = []
        for name, webhook in store.settings.webhooks.items():
            last = next((run for run in runs if run.arguments["webhook"] == name), None)
            lines.append(
                {
                    "webhook": name,
                    "url": webhook.url,
                    "form": webhook.form,
                    "applications": ", ".join(webhook.applications) or "all",
                    "delivery": None if last is None else last.status,
                    "note": None if last is None else last.arguments["note"],
                    "error": None if last is None else last.error,
                }
            )
    head = ("webhook", "url", "form", "applications", "delivery", "note", "error")
    rows = [tuple(line[name] for name in head) for line in lines]
    show(lines, as_json, lambda: table(head, rows, "No webhook: [webhooks.NAME] in antiphon.toml declares one."))


@app.command("test")
def send_test(
    name: Annotated[str, typer.Argument(help="The webhook's name in the settings.")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Send a signed test event at once, and say what the receiver answered."""
    from antiphon.services.webhooks import Webhooks

    with stores(project) as store:
        status = Webhooks(store).test(name)
    show({"webhook": name, "status": status}, as_json, lambda: f"{name} took it: {status}.")
