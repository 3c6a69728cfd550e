"""``antiphon chaos``: faults on purpose, and whether the objective or the declared degraded mode holds meanwhile."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import note, show, table
from antiphon.cli.project import allowed, stores
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.operations.chaos.experiment import Experiment
    from antiphon.operations.chaos.report import ChaosReport
    from antiphon.services.chaos.project_chaos import ProjectChaos
    from antiphon.services.project.store import Store

T = TypeVar("T")

NOT_HELD = 1
"""Exit code of a run in which neither the steady state nor a declared degraded mode held."""

_TERMINATED = 143

app = typer.Typer(
    name="chaos", help="Faults on purpose, and whether the objective holds meanwhile.", no_args_is_help=True
)

Environment = Annotated[
    str, typer.Option("--environment", help="Name this environment, for experiments that are not for it by themselves.")
]


@app.command()
def run(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments, or paths of their files.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every experiment that can be run here: a game day.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Break nothing: say what would be touched, and how the steady state is now."),
    ] = False,
    variable: Annotated[
        list[str] | None, typer.Option("--var", metavar="NAME=VALUE", help="A value of the experiments' configuration.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "",
    environment: Environment = "",
    cron: Annotated[
        str, typer.Option("--cron", metavar="LINE", help="Again and again by the calendar, until it is stopped.")
    ] = "",
    zone: Annotated[str, typer.Option("--zone", help="Time zone of the cron line.")] = "UTC",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Run experiments one after another, with one report. Leaves with 1 when something else than the steady state and
    the declared degraded mode was met."""
    from antiphon.services.chaos.project_chaos import ProjectChaos

    if bool(names) == every:
        raise InvalidInputError(
            "Say what is to be run.",
            where="NAMES",
            next_step="Name experiments of `antiphon chaos list`, or give --all.",
        )
    with stores(project) as store:
        chaos = ProjectChaos(store)
        experiments = chaos.find(names or [], _variables(variable or []))
        if dry_run:
            _dry(store, chaos, experiments, environment, as_json)
            return
        report = _ended(_run(store, chaos, experiments, reason, environment, every, cron, zone, as_json))
    show(report, as_json, lambda: summary(report), f"antiphon chaos report {report.run}")
    if not report.held:
        raise typer.Exit(NOT_HELD)


@app.command("list")
def list_experiments(
    runs: Annotated[bool, typer.Option("--runs", help="The runs so far, newest first.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Experiments that are shipped and those of the project (chaos/*.json, *.yaml), with what keeps them from being
    run."""
    from antiphon.services.chaos.project_chaos import ProjectChaos

    with stores(project) as store:
        chaos = ProjectChaos(store)
        if runs:
            reports = chaos.reports()
            head = ("run", "began", "held", "experiments", "outside", "by", "reason")
            rows = [
                (one.run, one.began_at, "yes" if one.held else "no", len(one.experiments),
                 f"{sum(each.outside_seconds for each in one.experiments):.1f} s", one.principal, one.reason)
                for one in reports
            ]  # fmt: skip
            show(reports, as_json, lambda: table(head, rows, "No experiment was run here yet."))
            return
        found = chaos.list()
    lines = [
        (one.name, one.origin, one.title, f"{one.seconds:.0f} s", " ".join(one.obstacles) or "can be run")
        for one in found
    ]
    show(found, as_json, lambda: table(("experiment", "from", "title", "lasts", "here"), lines))


@app.command()
def report(
    name: Annotated[str | None, typer.Argument(metavar="RUN", help="A run; the last one by default.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a document.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """The report of a run: what held, for how long it did not, per probe and with the moments, and what was done."""
    from antiphon.operations.chaos.report import markdown as document
    from antiphon.services.chaos.project_chaos import ProjectChaos

    with stores(project) as store:
        found = ProjectChaos(store).report(name)
    show(found, as_json, lambda: document(found).rstrip() if markdown else details(found))


@app.command()
def proxy(project: Project = HERE, as_json: Json = False) -> None:
    """Serve the proxies under [proxies] in this process, until it is stopped: faults of ports are done by them."""
    from antiphon.core import settings
    from antiphon.operations.chaos.tcp_proxy import serving

    found, paths = settings.load(project)

    async def serve() -> None:
        async with serving(found.proxies, paths.run, paths.root):
            lines = {name: f"{one.listen} -> {one.server}" for name, one in found.proxies.items()}
            show(lines, as_json, lambda: "\n".join(f"{name}: {line}" for name, line in lines.items()))
            await asyncio.Event().wait()

    _ended(serve())


def summary(found: ChaosReport) -> str:
    """A run as a table, an experiment a line, and what it came to."""
    from antiphon.operations.chaos.report import summary_cells

    head = ("experiment", "status", "observed", "outside", "degraded", "neither", "recovered after")
    said = [f"{one.experiment}: {one.reason}" for one in found.experiments if one.reason]
    verdict = "The steady state or the declared degraded mode held." if found.held else "It did not hold."
    return "\n".join([table(head, map(summary_cells, found.experiments)), *said, verdict])


def details(found: ChaosReport) -> str:
    """A run with the faults, the probes and the questions of each experiment."""
    from antiphon.operations.chaos.report import fault_cells, probe_cells, question_sentence

    parts = [summary(found)]
    for one in found.experiments:
        if one.observed is None:
            continue
        parts.append(f"{one.experiment}: {one.title}")
        if one.faults:
            parts.append(table(("fault", "touched", "from", "to", "ended because"), map(fault_cells, one.faults)))
        observed = one.observed
        head = ("probe", "within", "measured", "outside", "moments")
        parts.append(table(head, [probe_cells(probe, observed) for probe in one.probes], "It has no probe."))
        if one.questions is not None:
            parts.append(question_sentence(one.questions))
    return "\n\n".join(parts)


async def _run(
    store: Store, chaos: ProjectChaos, experiments: Sequence[Experiment], reason: str, environment: str, every: bool,
    cron: str, zone: str, as_json: bool,
) -> ChaosReport:  # fmt: skip
    who = allowed(store, "administer", "chaos/*")
    while True:
        if cron:
            await _until_due(cron, zone)
        found = await chaos.run(
            experiments, by=who, reason=reason, environment=environment or None, passing_over=every, tell=note
        )
        if not cron:
            return found
        typer.echo(msgspec.json.encode(found).decode() if as_json else summary(found))


async def _until_due(line: str, zone: str) -> None:
    from antiphon.definitions.cron import CronTime

    due = CronTime(line, zone).after(datetime.now(UTC))
    if due is None:
        raise InvalidInputError("The cron line never comes due.", where="--cron", next_step="Write another line.")
    note(f"The next run is at {due:%Y-%m-%d %H:%M}Z.")
    # In steps: a clock that is set, or a machine that sleeps, does not move the time of day.
    while (left := (due - datetime.now(UTC)).total_seconds()) > 0:
        await asyncio.sleep(min(left, 30.0))


def _dry(store: Store, chaos: ProjectChaos, experiments: Sequence[Experiment], environment: str, as_json: bool) -> None:
    who = allowed(store, "administer", "chaos/*")
    plans = chaos.plan(experiments, environment or None)
    now = [_ended(chaos.look(one, by=who)) for one in experiments]
    found = [
        {"plan": plan, "now": state} for plan, state in zip(plans, now, strict=True)
    ]  # fmt: skip

    def text() -> str:
        parts = []
        for plan, states in zip(plans, now, strict=True):
            parts.append(f"{plan.experiment}: {plan.title} (at most {plan.seconds:.0f} s)")
            rows = [
                (one.fault, ", ".join(one.touches), f"{one.seconds:g} s", "; ".join(one.notes)) for one in plan.faults
            ]
            parts.append(table(("fault", "touches", "for", "note"), rows, "It breaks nothing."))
            lines = [(one.probe, one.value, "yes" if one.steady else "no", one.error) for one in states]
            parts.append(table(("probe", "now", "within", "why"), lines, "It measures nothing."))
            parts += [f"REFUSED: {one}" for one in plan.refusals]
        return "\n\n".join(parts)

    show(found, as_json, text)


def _variables(written: Sequence[str]) -> dict[str, str]:
    found = {}
    for one in written:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise InvalidInputError(f"{one!r} is no value.", where="--var", next_step="Write --var duration=5s.")
        found[name] = value
    return found


def _ended(work: Coroutine[Any, Any, T]) -> T:
    """Run until it ends; SIGTERM ends it as Ctrl-C does, with what it has begun."""

    async def until_terminated() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(until_terminated())
    except asyncio.CancelledError:
        raise SystemExit(_TERMINATED) from None
