"""``antiphon schedules`` and ``antiphon windows``: what is declared to happen by itself, and when."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

import typer

from antiphon.cli.options import HERE, For, Json, Project, Reason
from antiphon.cli.output import show, table
from antiphon.cli.project import allowed, stores

app = typer.Typer(name="schedules", help="Work that is declared to happen by itself.", no_args_is_help=True)
windows_app = typer.Typer(name="windows", help="Times declared for work or against it.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The schedule's name.")]
Until = Annotated[str, typer.Option("--until", metavar="TIME", help="It ends then, such as 2026-12-24T18:00+01:00.")]


@app.command("list")
def list_schedules(project: Project = HERE, as_json: Json = False) -> None:
    """Each schedule with its conditions, and what it waits for or does now."""
    from antiphon.services.conducting.schedules import ProjectSchedules

    with stores(project) as store:
        found = ProjectSchedules(store, store.scope).list()
    head = ("schedule", "work", "value", "due at", "now", "why", "earliest", "runs", "last run")
    rows = [
        (
            one.name,
            one.work_of,
            f"{one.value:g}",
            one.declared,
            one.outlook.stage,
            one.outlook.reason,
            one.outlook.earliest,
            one.record.sequence,
            one.last,
        )
        for one in found
    ]
    none = "No schedule is applied. Declare one beside an application: docs/schedules.md."
    show(found, as_json, lambda: table(head, rows, none))


@app.command()
def forecast(
    hours: Annotated[int, typer.Option("--hours", min=1, max=168, help="So far ahead.")] = 24,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Requests that each hour is expected to bring, by which work that may wait is placed."""
    from antiphon.services.conducting.traffic import hourly_forecast

    with stores(project) as store:
        found = hourly_forecast(store, store.scope, hours)
    head = ("hour", "expected", "low", "high")
    rows = [(one.begins, round(one.expected), round(one.low), round(one.high)) for one in found]
    none = "Nothing is forecast before there was a day of requests."
    show(found, as_json, lambda: table(head, rows, none))


@app.command()
def run(
    name: Name,
    reason: Reason,
    partition: Annotated[
        str,
        typer.Option("--partition", metavar="NAME", help="The day or key to make; else the oldest that is stale."),
    ] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Order a schedule's run now, whatever its conditions are; the next one counts from then on."""
    from antiphon.app.wiring import open_learning
    from antiphon.gateway.admin.shapes import RunLine, read
    from antiphon.services.batches import ProjectTableJobs
    from antiphon.services.conducting.scheduled_orders import ScheduledOrders
    from antiphon.services.export.scheduled import ScheduledExports

    async def begun() -> RunLine:
        async with open_learning(project) as (learning, store):
            who = allowed(store, "release", "application/*")
            tables = ProjectTableJobs(store, learning.features, confined=False)
            exports = partial(ScheduledExports, store, learning.features)
            orders = ScheduledOrders(store, lambda: learning.orders, tables.create, exports)
            return read(store.runs.get(store.scope, orders.begin(name, who, reason, partition or None)), RunLine)

    found = asyncio.run(begun())
    show(found, as_json, lambda: f"{found.id} is {found.status}; `antiphon runs show {found.id}` follows it.")


@app.command()
def pause(
    name: Name, reason: Reason, until: Until = "", duration: For = "", project: Project = HERE, as_json: Json = False
) -> None:
    """Keep a schedule from ordering anything for a while; a run that it ordered goes on."""
    from antiphon.services.conducting.schedules import ProjectSchedules, until_of

    with stores(project) as store:
        who = allowed(store, "release", "application/*")
        end = until_of(until, duration, store.database.clock.now())
        record = ProjectSchedules(store, store.scope).pause(who.id, name, reason, end)
    show(record, as_json, lambda: f"{name} is paused until {record.paused_until:%Y-%m-%d %H:%M}Z.")


@app.command()
def resume(name: Name, project: Project = HERE, as_json: Json = False) -> None:
    """End a schedule's pause."""
    from antiphon.services.conducting.schedules import ProjectSchedules

    with stores(project) as store:
        who = allowed(store, "release", "application/*")
        record = ProjectSchedules(store, store.scope).resume(who.id, name)
    show(record, as_json, lambda: f"{name} goes on.")


@windows_app.command("list")
def list_windows(project: Project = HERE, as_json: Json = False) -> None:
    """The declared windows of the next three days, and the next one of each."""
    from antiphon.services.conducting.schedules import ProjectSchedules

    with stores(project) as store:
        found = ProjectSchedules(store, store.scope).windows()
    head = ("window", "kind", "work", "begins", "until")
    rows = [(one.window.name, one.window.kind, ", ".join(one.window.work), one.begins, one.until) for one in found]
    show(found, as_json, lambda: table(head, rows, "No window is declared."))
