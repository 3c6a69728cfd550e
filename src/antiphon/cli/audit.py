"""``antiphon audit``: who saw or changed what, and proof of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.entity import moment
from antiphon.cli.options import HERE, Json, Limit, Project
from antiphon.cli.output import note, show, show_json, table
from antiphon.cli.project import allowed, at_terminal, stores
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.scope import Scope

if TYPE_CHECKING:
    from antiphon.governance.audit.checkpoint import Checkpoint
    from antiphon.governance.audit.record import AuditEntry
    from antiphon.governance.audit.verification import Verification
    from antiphon.services.project.store import Store

app = typer.Typer(name="audit", help="Who saw or changed what, and proof of it.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(metavar="TENANT", help="Another tenant than the project's.")]
From = Annotated[str, typer.Option("--from", metavar="TIME", help="From this instant on, e.g. 2026-11-24T08:00Z.")]
Until = Annotated[str, typer.Option("--until", metavar="TIME", help="Before this instant.")]
ERASED = "(erased)"


@app.command()
def query(
    principal: Annotated[str, typer.Option(help="A principal, or a user on whose behalf one acted.")] = "",
    action: Annotated[str, typer.Option(help="E.g. release.activate, or release.* for all of them.")] = "",
    subject: Annotated[str, typer.Option(help="What it was done to; may end in *.")] = "",
    tenant: Tenant = "",
    since: From = "",
    until: Until = "",
    denied: Annotated[bool, typer.Option("--denied", help="Only what was refused.")] = False,
    before: Annotated[int, typer.Option(metavar="RECORD", help="Records before this one: the next page.")] = -1,
    limit: Limit = 50,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """List records of the audit log in an interval, latest first: who saw or changed which resource."""
    from antiphon.governance.audit.log import AuditFilter

    filters = AuditFilter(
        who=principal or None,
        action=action or None,
        subject=subject or None,
        since=moment(since, "--from"),
        until=moment(until, "--until"),
        denied=denied,
        before=before if before >= 0 else None,
        limit=limit,
    )
    with stores(project) as store:
        scope = _scope(store, tenant)
        found = store.trail.query(scope, filters)
        store.trail.record(scope, at_terminal(store).id, "data.read", "audit", {"count": len(found), "kind": "audit"})
    more = len(found) == limit and found[-1].sequence > 0
    head = ("record", "when", "who", "action", "subject", "outcome", "detail")
    hint = f"More: add --before {found[-1].sequence}" if more else ""
    show(found, as_json, lambda: table(head, _rows(found)), hint)


@app.command()
def verify(
    witness: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another witness file than the project's.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(metavar="FILE", help="A checkpoint that was kept.")] = None,
    tenant: Tenant = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Check the whole log against its head and every witnessed checkpoint; leaves with 1 when something is wrong."""
    from antiphon.governance.audit.witness import read_witness

    if witness is not None and not witness.exists():
        raise NotFoundError("There is no such file.", where=str(witness), next_step="Name the witness file.")
    kept: tuple[Checkpoint, ...] = ()
    if checkpoint is not None:
        try:
            kept = read_witness(checkpoint.read_bytes()).checkpoints
        except OSError as error:
            raise NotFoundError(
                f"The checkpoint cannot be read: {error.strerror}.", where=str(checkpoint), next_step="Check its path."
            ) from error
        if not kept:
            raise InvalidInputError(
                "There is no signed checkpoint in it.",
                where=str(checkpoint),
                next_step="Give the whole text, from the origin line to the end of the signature line.",
            )
    with stores(project) as store:
        trail = store.trail
        # Another installation may use the same file: only what this one signed must still be there.
        known = trail.witnessed_origins() if witness is None else frozenset()
        mine = {*trail.log.scopes(headless=True), store.scope}
        scopes = [_scope(store, tenant)] if tenant else sorted(mine)
        stray = sorted(known - {trail.key.origin(scope) for scope in mine})
        found = [
            trail.verify(scope, [one for one in kept if one.origin == trail.key.origin(scope)], witness)
            for scope in scopes
        ]
        foreign = [one.origin for one in kept if one.origin not in {trail.key.origin(scope) for scope in scopes}]
    lost = [f"nothing is left of {origin}, which is witnessed" for origin in stray]
    lost += [f"the checkpoint given is of {origin}, another log" for origin in foreign]
    sound = not lost and all(one.sound for one in found)
    if as_json:
        show_json({"logs": found, "problems": lost, "sound": sound})
    else:
        for line in (*(line for one in found for line in _verified(one)), *lost):
            note(line)
    if not sound:
        raise typer.Exit(1)


@app.command()
def prove(
    sequence: Annotated[int, typer.Argument(metavar="[RECORD]", help="Its number.")] = -1,
    prediction: Annotated[str, typer.Option(metavar="PREDICTION", help="The record of this prediction.")] = "",
    tenant: Tenant = "",
    project: Project = HERE,
) -> None:
    """Proof that a record is in the log, as JSON that stands by itself; the verifier checks it."""
    if (sequence < 0) == (not prediction):
        raise InvalidInputError(
            "Name one record.", where="prove", next_step="Give its number, or --prediction and a prediction's id."
        )
    with stores(project) as store:
        scope = _scope(store, tenant)
        number = store.trail.sequence_of(scope, prediction) if prediction else sequence
        proof = store.trail.proof(scope, number)
    show_json(proof)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
    since: From = "",
    until: Until = "",
    tenant: Tenant = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Records with their proofs and the witnessed checkpoints, in one file for the stand-alone verifier."""
    with stores(project) as store:
        who = allowed(store, "export", "audit/*")
        scope = _scope(store, tenant)
        store.trail.record(scope, who.id, "audit.export", "audit", {"since": since, "until": until})
        head = store.trail.export(scope, file, moment(since, "--from"), moment(until, "--until"))
    show(
        {"file": str(file), "first": head.first, "records": head.records, "key": head.key},
        as_json,
        lambda: (
            f"{head.records} records from {head.first} on are in {file}. Check them: "
            f"antiphon audit verifier > verify.py; python verify.py {file} --key '{head.key}'"
        ),
    )


@app.command()
def checkpoint(tenant: Tenant = "", project: Project = HERE) -> None:
    """Sign and witness the log as it is now, and print the checkpoint."""
    with stores(project) as store:
        signed = store.trail.checkpointing.sign(_scope(store, tenant))
    if signed is None:
        raise NotFoundError("The log is empty.", where="audit", next_step="There is nothing to sign yet.")
    typer.echo(signed.note, nl=False)


@app.command()
def key(
    earlier: Annotated[bool, typer.Option("--earlier", help="Also those before it, oldest first.")] = False,
    tenant: Tenant = "",
    project: Project = HERE,
) -> None:
    """The public key of the log's checkpoints: keep it elsewhere, the verifier asks for it."""
    with stores(project) as store:
        scope, present = _scope(store, tenant), store.trail.key
        for one in present.earlier_keys(scope) if earlier else ():
            typer.echo(one.key)
        typer.echo(present.verifier(scope))


@app.command("rotate-key")
def rotate_key(
    reason: Annotated[str, typer.Option(help="Why; it stays in the log.")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Sign checkpoints with a new key from now on. Nothing has to stop; what earlier keys signed goes on holding."""
    with stores(project) as store:
        made = store.trail.rotate_key(store.scope, at_terminal(store).id, reason)
        found = {"key": made.verifier(store.scope), "earlier": [one.key for one in made.earlier_keys(store.scope)]}
    show(
        found,
        as_json,
        lambda: f"Checkpoints are signed with {found['key']} from now on.",
        "Whoever keeps the key before goes on with it: files show how it handed over. If it was stolen, give them",
        "the new one another way.",
    )


@app.command()
def verifier() -> None:
    """Print the stand-alone verifier: one Python file that needs only the package cryptography."""
    from antiphon.governance.verifier import source

    typer.echo(source(), nl=False)


@app.command()
def erase(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A person's name as it stands in the log.")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    tenant: Tenant = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Erase a person's name from the log and the ledger for good; what was done stays provable, and sums stay."""
    from antiphon.services.governance.person_erasure import erase_person

    with stores(project) as store:
        by = at_terminal(store).id
        erased = erase_person(store, _scope(store, tenant), name, principal=by, reason=reason)
    rows = f" {erased.ledger} rows of the ledger have their usage without it." if erased.ledger else ""
    show(erased, as_json, lambda: f"Erased in {erased.erased} places.{rows}")


def _scope(store: Store, tenant: str) -> Scope:
    return Scope(tenant, store.scope.environment) if tenant else store.scope


def _verified(one: Verification) -> Iterator[str]:
    sound = f"sound, {one.checkpoints} checkpoints fit" if one.sound else "WRONG"
    erased = f", {one.erased} names or details erased" if one.erased else ""
    yield f"{one.scope}: {one.entries} records{erased}: {sound}"
    yield from (f"  {problem}" for problem in one.problems)
    if one.first is not None:
        yield f"  the first wrong record is {one.first}"


def _rows(found: Sequence[AuditEntry]) -> list[tuple[object, ...]]:
    return [
        (
            one.sequence,
            one.at,
            (one.principal or ERASED) + (f" for {one.originator}" if one.originator else ""),
            one.action,
            one.subject or ERASED,
            one.outcome,
            ERASED if one.detail is None else ", ".join(f"{name} {value}" for name, value in one.detail.items()),
        )
        for one in found
    ]
