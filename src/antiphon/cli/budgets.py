"""``antiphon budgets``: limits of what a tenant, an application or a key may be charged in a day or a month."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Project, Reason
from antiphon.cli.output import show, table
from antiphon.cli.project import allowed, at_terminal, stores
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.core.scope import Scope
    from antiphon.services.budgets.project_budgets import BudgetLine
    from antiphon.services.project.store import Store

app = typer.Typer(name="budgets", help="Limits of what may be charged, and what is left.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="BUDGET", help="Its name, such as desk-monthly.")]


OfTenant = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", help="Of this tenant; by default of the project's own.")
]


@app.command("list")
def list_budgets(tenant: OfTenant = None, project: Project = HERE, as_json: Json = False) -> None:
    """Each budget, with what is spent and left of it."""
    from antiphon.operations.cost.amounts import decimal_text
    from antiphon.services.budgets.project_budgets import ProjectBudgets

    with stores(project) as store:
        found = ProjectBudgets(store, _scope(store, tenant)).list()
    head = ("budget", "of", "status", "limit", "spent", "left", "renews")
    rows = [
        (
            one.budget.name, _subject(one), one.status,
            f"{decimal_text(one.budget.limit_micros)} {one.budget.currency} a {one.budget.period}",
            decimal_text(one.spent_micros), decimal_text(one.left_micros), one.renews,
        )
        for one in found
    ]  # fmt: skip
    show(found, as_json, lambda: table(head, rows, "No budget is set: `antiphon budgets set`."))


@app.command("show")
def show_budget(name: Name, tenant: OfTenant = None, project: Project = HERE, as_json: Json = False) -> None:
    """One budget: what is spent, reserved and left, and what happens at which share."""
    from antiphon.services.budgets.project_budgets import ProjectBudgets

    with stores(project) as store:
        found = ProjectBudgets(store, _scope(store, tenant)).get(name)
    show(found, as_json, lambda: "\n".join(_text(found)))


@app.command("set")
def set_budget(
    name: Name,
    reason: Reason,
    limit: Annotated[str | None, typer.Option("--limit", metavar="AMOUNT", help="In the ledger's currency.")] = None,
    application: Annotated[str | None, typer.Option("--application", help="Of an application or model.")] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="NAME", help="Of all keys of this name.")] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="NAME", help="Of this tenant as a whole; by default the own one.")
    ] = None,
    per: Annotated[str | None, typer.Option("--per", help="day or month (default).")] = None,
    zone: Annotated[str | None, typer.Option("--zone", help="Of its midnight: UTC (default), Europe/Berlin …")] = None,
    warn: Annotated[int | None, typer.Option("--warn", metavar="PERCENT", help="Warned of from here; 80.")] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="PERCENT", help="Batch work waits from here; 100.")
    ] = None,
    at_limit: Annotated[str | None, typer.Option("--at-limit", help="refuse (default) or warn.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show how it would stand.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Set a budget, or change what is named of it; in force within a second."""
    from antiphon.services.budgets.project_budgets import BudgetTerms, ProjectBudgets

    named = {"application": application, "key": key, "tenant": tenant}
    given = [kind for kind, subject in named.items() if subject is not None]
    if len(given) > 1:
        raise InvalidInputError(
            "A budget is of one thing.", where=f"--{given[1]}", next_step="Name one of --tenant, --application, --key."
        )
    kind = given[0] if given else None
    terms = BudgetTerms(limit, kind, "" if kind == "tenant" else application or key, per, zone, warn, batch, at_limit)
    with stores(project) as store:
        allowed(store, "administer", f"platform/{name}")
        found = ProjectBudgets(store, _scope(store, tenant)).set(
            name, terms, reason=reason, by=at_terminal(store), dry_run=dry_run
        )
    show(found, as_json, lambda: "\n".join(_text(found)))


@app.command("remove")
def remove_budget(
    name: Name, reason: Reason, tenant: OfTenant = None, project: Project = HERE, as_json: Json = False
) -> None:
    """Remove a budget: nothing is reserved of it or refused by it any more."""
    from antiphon.services.budgets.project_budgets import ProjectBudgets

    with stores(project) as store:
        allowed(store, "administer", f"platform/{name}")
        ProjectBudgets(store, _scope(store, tenant)).remove(name, reason=reason, by=at_terminal(store))
    show({"removed": name}, as_json, lambda: f"The budget {name} is removed.")


def _scope(store: Store, tenant: str | None) -> Scope:
    """The scope of a tenant's budgets; raises ``NotFoundError`` where there is no such tenant."""
    from antiphon.core.scope import Scope

    if tenant is None or tenant == store.scope.tenant:
        return store.scope
    store.keys.principals.tenants.get(tenant)
    return Scope(tenant, store.scope.environment)


def _subject(line: BudgetLine) -> str:
    budget = line.budget
    return budget.kind if budget.kind == "tenant" else f"{budget.kind} {budget.subject}"


def _text(line: BudgetLine) -> Iterator[str]:
    from antiphon.operations.cost.amounts import decimal_text

    budget, currency = line.budget, line.budget.currency
    yield f"{budget.name}: {decimal_text(budget.limit_micros)} {currency} a {budget.period} of {_subject(line)}"
    yield f"status    {line.status}"
    yield f"spent     {decimal_text(line.spent_micros)} since {line.begins:%Y-%m-%d %H:%M}Z"
    yield f"reserved  {decimal_text(line.held_micros)}"
    yield f"left      {decimal_text(line.left_micros)}; renews {line.renews:%Y-%m-%d %H:%M}Z ({budget.zone})"
    yield f"warns at  {budget.warn_percent} %; batch work waits at {budget.batch_percent} %"
    yield f"at limit  {budget.at_limit}"
    yield f"set by    {budget.principal}: {budget.reason}"
