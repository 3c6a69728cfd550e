"""``antiphon cost``: what was used, what it cost, what it bought, and what it will cost."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from antiphon.cli.options import HERE, Json, Project, Reason
from antiphon.cli.output import show, table
from antiphon.cli.project import allowed, at_terminal, stores
from antiphon.core.disk import replace_file
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.operations.cost.summary import CostSummary

app = typer.Typer(name="cost", help="What was used, and what it cost.", no_args_is_help=True)

Since = Annotated[str, typer.Option("--since", metavar="TIME", help="From this hour on; by default 30 days.")]
Until = Annotated[str, typer.Option("--until", metavar="TIME", help="Until this hour; by default all that is known.")]
By = Annotated[
    list[str],
    typer.Option(
        "--by",
        metavar="NAME",
        help="application, path, role, release, principal, engine, model, work, resource, tenant, kind, hour, day or "
        "month; repeat it.",
    ),
]


@app.command("show")
def show_cost(
    by: By = ["application"],  # noqa: B006 -- typer copies it
    since: Since = "",
    until: Until = "",
    energy: Annotated[bool, typer.Option("--energy", help="Estimated energy of each line, in watt-hours.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Sums of what was charged, the dearest first; they add up to what was measured."""
    from antiphon.operations.cost.amounts import decimal_text
    from antiphon.operations.cost.summary import csv_rows
    from antiphon.services.cost.costs import ProjectCosts

    with stores(project) as store:
        found = ProjectCosts(store, store.scope).summary(by, _moment(since, "--since"), _moment(until, "--until"))
    if as_csv and not as_json:
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows(csv_rows(found, decimal_text, energy=energy))
        typer.echo(written.getvalue(), nl=False)
        return
    show(found, as_json, lambda: _shown(found, energy))


@app.command()
def prices(project: Project = HERE, as_json: Json = False) -> None:
    """Recorded prices, in the order in which they were recorded."""
    from antiphon.operations.cost.price_book import UNITS
    from antiphon.services.cost.prices import ProjectPrices

    with stores(project) as store:
        of_project = ProjectPrices(store)
        of_project.follow_settings()
        found = of_project.book().records
    head = ("resource", "model", "price", "of a", "since", "recorded", "by", "reason")
    rows = [
        (
            one.resource,
            one.model,
            f"{one.amount} {one.currency}",
            UNITS[one.resource].name,
            one.since if one.since.year > 1970 else "the beginning",
            one.recorded_at,
            one.principal,
            one.reason,
        )
        for one in found
    ]
    show(found, as_json, lambda: table(head, rows))


@app.command()
def price(
    resource: Annotated[
        str,
        typer.Argument(
            help="engine, gpu, worker, training_processor, memory, storage, or a kind of token: prompt_token."
        ),
    ],
    amount: Annotated[str, typer.Argument(help="Of one unit: a second, a GiB for an hour or 30 days, a token.")],
    reason: Reason,
    model: Annotated[str, typer.Option("--model", help="Of tokens: the model that it is for.")] = "",
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="From this whole hour on, also a past one; by default this.")
    ] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Record a price. From a past hour on it makes corrections; what was charged stays as it is."""
    from antiphon.services.cost.prices import ProjectPrices

    with stores(project) as store:
        allowed(store, "administer", "platform/*")
        of_project = ProjectPrices(store)
        of_project.follow_settings()
        made = of_project.record(
            resource, amount, model=model, since=_moment(since, "--since"), reason=reason, by=at_terminal(store)
        )
    show(
        made,
        as_json,
        lambda: (
            f"{made.resource}{f' of {made.model}' if made.model else ''} costs {made.amount} {made.currency} from "
            f"{made.since:%Y-%m-%d %H:%M}Z on."
        ),
    )


@app.command()
def forecast(
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="So far ahead.")] = 30,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Forecast what the next days cost, with the bounds between which their sum lies 9 times of 10."""
    from antiphon.operations.cost.amounts import decimal_text
    from antiphon.services.cost.costs import ProjectCosts

    with stores(project) as store:
        found = ProjectCosts(store, store.scope).forecast(days)

    def text() -> str:
        if found is None:
            return "Nothing is forecast before there was a week of charges that is over."
        bounds = f"{decimal_text(found.low)} to {decimal_text(found.high)}"
        return (
            f"{decimal_text(found.expected)} {found.currency} in {found.days} days from {found.first} on ({bounds}), "
            f"by {found.from_days} days."
        )

    show(found, as_json, text)


@app.command()
def review(
    application: Annotated[str, typer.Argument(help="The application's name.")],
    since: Since = "",
    until: Until = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Tell what its last training cost and bought, and what a correct answer costs, as Markdown."""
    from antiphon.operations.cost.review import csv_text, markdown
    from antiphon.services.cost.costs import ProjectCosts

    with stores(project) as store:
        costs = ProjectCosts(store, store.scope)
        found = costs.review(application, _moment(since, "--since"), _moment(until, "--until"))
    show(found, as_json, lambda: (csv_text(found) if as_csv else markdown(found)).rstrip("\n"))


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="The CSV file to write.")],
    since: Since = "",
    until: Until = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Write every charge as a row of FOCUS, the FinOps format of cost and usage."""
    from antiphon.operations.cost.focus import VERSION, focus_csv
    from antiphon.services.cost.costs import ProjectCosts

    with stores(project) as store:
        costs = ProjectCosts(store, store.scope)
        found = costs.charges(_moment(since, "--since"), _moment(until, "--until"))
        rows, text = focus_csv(found, store.scope.environment, costs.currency)
    try:
        replace_file(output, text.encode())
    except OSError as error:
        raise InvalidInputError(
            f"{output} cannot be written: {error.strerror}.", where="output", next_step="Name a file in a folder."
        ) from None
    value = {"file": str(output), "rows": rows, "focus": VERSION}
    show(value, as_json, lambda: f"{rows} rows of FOCUS {VERSION} in {output}.")


def _moment(text: str, option: str) -> datetime | None:
    if not text:
        return None
    try:
        found = msgspec.convert(text if "T" in text else f"{text}T00:00:00Z", datetime)
    except msgspec.ValidationError:
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidInputError(
            f"{text!r} is no time.", where=option, next_step="Write it like 2026-12-01, or 2026-12-01T08:00:00Z."
        )
    return found


def _shown(found: CostSummary, energy: bool) -> str:
    from antiphon.operations.cost.amounts import decimal_text
    from antiphon.operations.cost.summary import energy_cells, energy_text

    head = (*found.by, f"cost ({found.total.currency})", "of it corrections", "saved", "answers")
    head += ("Wh, low", "Wh, high") if energy else ()
    rows = [
        (
            *(one.group.get(name, "") or f"no {name}" for name in found.by),
            decimal_text(one.micros),
            decimal_text(one.correction_micros),
            decimal_text(one.saved_micros),
            one.answers,
            *(energy_cells(one) if energy else ()),
        )
        for one in found.lines
    ]
    if rows:
        total = found.total
        first = ["sum", *([""] * (len(found.by) - 1))]
        amounts = (total.micros, total.correction_micros, total.saved_micros)
        rows.append((*first, *map(decimal_text, amounts), total.answers, *(energy_cells(total) if energy else ())))
    return "\n".join(filter(None, (table(head, rows, "Nothing was used in this time."), energy_text(found))))
