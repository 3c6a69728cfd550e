"""``antiphon keys``: API keys of the project's tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Project, Reason, Role
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import allowed, at_terminal, refusals_on_record, stores
from antiphon.core.clock import SystemClock, parse_duration

if TYPE_CHECKING:
    from antiphon.gateway.admin.shapes import KeyLine
    from antiphon.governance.identity.key_records import KeyRecord
    from antiphon.services.governance.identity import ProjectIdentity
    from antiphon.services.project.store import Store

app = typer.Typer(name="keys", help="API keys.", no_args_is_help=True)

Key = Annotated[str, typer.Argument(metavar="KEY", help="Its id, key_….")]
RequestsPerMinute = Annotated[int | None, typer.Option(metavar="N", help="At most so many; no bound when left out.")]
TokensPerMinute = Annotated[
    int | None, typer.Option(metavar="N", help="Of prompts and answers; no bound when left out.")
]
TokensPerDay = Annotated[int | None, typer.Option(metavar="N", help="Of one UTC day; no bound when left out.")]
Priority = Annotated[bool, typer.Option("--priority", help="It may ask with `service_tier: priority`.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whom it speaks for.")],
    role: Role = "service",
    expires_in: Annotated[str, typer.Option(metavar="DURATION", help="e.g. 90d; never when left out.")] = "",
    actions: Annotated[
        str, typer.Option(metavar="LIST", help="Only for these, e.g. answer,originate; all of its role when left out.")
    ] = "",
    resources: Annotated[
        str, typer.Option("--for", metavar="LIST", help="Only for these, e.g. application/desk,stream/*.")
    ] = "",
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    priority: Priority = False,
    person: Annotated[bool, typer.Option("--person", help="A new principal is a person, not a service.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Make a key; it is shown this once."""
    from antiphon.gateway.admin.shapes import NewKey
    from antiphon.governance.identity.principal import Allowance, Limits

    limits = Limits(_listed(actions), _listed(resources))
    allowance = Allowance(requests_per_minute, tokens_per_minute, tokens_per_day, priority)
    with stores(project) as store:
        key, record = _identity(store).create(
            store.scope.tenant,
            name,
            role,
            SystemClock().now() + parse_duration(expires_in) if expires_in else None,
            by=at_terminal(store),
            kind="person" if person else "service",
            limits=limits,
            allowance=allowance,
        )
    kept = f"{record.id} for {name} ({record.role}). Keep it: it is not shown again."
    show(NewKey(key, _line(record)), as_json, lambda: key, kept, _waits(record))


@app.command("list")
def list_keys(project: Project = HERE, as_json: Json = False) -> None:
    """Keys, newest first; never the keys themselves."""
    from antiphon.gateway.admin.shapes import KeyLine, read_all

    with stores(project) as store:
        found = read_all(store.keys.list(store.scope.tenant), KeyLine)
    rows = [
        (
            key.id,
            key.name,
            key.role,
            f"…{key.hint}",
            " ".join((*key.limits.actions, *key.limits.resources)) or "its role",
            key.created_at,
            key.expires_at,
            key.last_used_on,
            _state(key),
        )
        for key in found
    ]
    head = ("key", "name", "role", "ends", "for", "created", "expires", "last used", "state")
    show(found, as_json, lambda: table(head, rows))


@app.command("show")
def show_key(key: Key, project: Project = HERE, as_json: Json = False) -> None:
    """Show a key: its purpose, expiry, limits and last use."""
    from antiphon.catalog.serving.quotas import QuotaLevels

    with stores(project) as store:
        record = store.keys.get(store.scope.tenant, key)
        found, meters = _line(record), record.allowance.meters
        used = QuotaLevels(store.database).used(store.scope.tenant, record.allowance.bucket or key, meters)
    quotas = [(meter.name.replace("_", " "), f"{round(used[meter.name])} of {meter.capacity} used") for meter in meters]
    rows = [
        ("key", found.id),
        ("principal", f"{found.name} ({found.kind}, {found.role}, clearance {found.clearance})"),
        ("actions", ", ".join(found.limits.actions) or "all of its role"),
        ("resources", ", ".join(found.limits.resources) or "all of its role"),
        ("created", found.created_at),
        ("expires", found.expires_at),
        ("last used", found.last_used_on),
        *quotas,
        ("priority", "may ask for it" if found.allowance.priority else "no"),
        ("replaced by", found.replaced_by),
        ("state", _state(found) or "valid"),
    ]
    show(found, as_json, lambda: table(("what", "is"), rows))


@app.command()
def allow(
    key: Key,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    priority: Priority = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Give a key these quotas instead of those it has, within a second, everywhere; what it has used stays used."""
    from antiphon.governance.identity.principal import Allowance

    allowance = Allowance(requests_per_minute, tokens_per_minute, tokens_per_day, priority)
    with stores(project) as store:
        by = at_terminal(store).id
        record = _line(_identity(store).allow(store.scope.tenant, key, allowance, by=by))
    show(record, as_json, lambda: f"{record.id} ({record.name}) has these quotas now.")


@app.command()
def rotate(
    name: Annotated[str, typer.Argument(help="The principal, or the key's id where it has several.")],
    overlap: Annotated[str, typer.Option(metavar="DURATION", help="How long the present key still holds.")] = "1h",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Make a key like the present one, which expires after the overlap."""
    from antiphon.gateway.admin.shapes import RotatedKey

    with stores(project) as store:
        rotated = _identity(store).rotate(store.scope.tenant, name, parse_duration(overlap), by=at_terminal(store))
    shown = RotatedKey(rotated.key, _line(rotated.record), _line(rotated.replaced))
    replaced = (
        f"{rotated.record.id} replaces {rotated.replaced.id}, which holds until "
        f"{moment(rotated.replaced.expires_at)}. Keep it: it is not shown again."
    )
    show(shown, as_json, lambda: rotated.key, replaced, _waits(rotated.record))


@app.command()
def approve(key: Key, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Let a key that somebody else made open what it is for."""
    with stores(project) as store:
        who = allowed(store, "approve", f"key/{key}")
        with refusals_on_record(store, who, "approve", f"key/{key}"):
            record = _line(_identity(store).approve(store.scope.tenant, key, by=who, reason=reason))
    show(record, as_json, lambda: f"{record.id} ({record.name}, {record.role}) holds now.")


@app.command()
def revoke(key: Key, project: Project = HERE, as_json: Json = False) -> None:
    """Stop a key and the sessions begun with it for good, within a second, everywhere."""
    with stores(project) as store:
        by = at_terminal(store).id
        record = _line(_identity(store).revoke(store.scope.tenant, key, by=by))
    show(record, as_json, lambda: f"{record.id} ({record.name}) is revoked.")


@app.command("trust-clock")
def trust_clock(reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Forget that a later time was seen here: the clock was ahead then, and is right now. Stop `antiphon up` first."""
    from antiphon.governance.identity.last_use import trust_clock as forget
    from antiphon.operations.preflight import require_not_up

    with stores(project) as store:
        require_not_up(store.paths.run)
    with stores(project) as store, store.database.transaction() as connection:
        before, now = forget(store.database, within=connection)
        detail = {"before": before.isoformat() if before else None, "at": now.isoformat(), "reason": reason}
        store.audit.append(store.scope, at_terminal(store).id, "clock.trust", "clock", detail, within=connection)
    show({"before": before, "now": now}, as_json, lambda: f"The clock is trusted: it is {now:%Y-%m-%d %H:%M:%SZ}.")


def _identity(store: Store) -> ProjectIdentity:
    from antiphon.services.governance.identity import ProjectIdentity

    return ProjectIdentity(store)


def _line(record: KeyRecord) -> KeyLine:
    from antiphon.gateway.admin.shapes import KeyLine, read

    return read(record, KeyLine)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _waits(record: KeyRecord) -> str:
    approve = f"another administrator runs `antiphon keys approve {record.id} --reason …`"
    return f"It opens nothing yet: {approve}." if record.waits else ""


def _state(key: KeyLine) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.waits:
        return "waits for approval"
    if key.disabled:
        return "disabled"
    if key.expires_at is not None and key.expires_at <= SystemClock().now():
        return "expired"
    return "replaced" if key.replaced_by is not None else ""
