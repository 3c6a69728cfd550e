"""``antiphon policy``: what may happen, who decided that, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from antiphon.cli.entity import pairs
from antiphon.cli.options import HERE, Json, Project, Reason
from antiphon.cli.output import note, show, table
from antiphon.cli.project import at_terminal, stores
from antiphon.core.errors import AntiphonError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from antiphon.governance.identity.principal import Principal
    from antiphon.governance.policy.diff import PolicyDiff
    from antiphon.governance.policy.explanation import Explanation
    from antiphon.governance.policy.validation import PolicyCheck
    from antiphon.governance.policy.versions import PolicyVersion
    from antiphon.services.governance.policy_versions import PolicyService
    from antiphon.services.project.store import Store

app = typer.Typer(name="policy", help="Policies: what may happen, and who decided that.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(metavar="NUMBER", help="A version's number; 0 is the default policies.")]
Files = Annotated[
    list[Path] | None, typer.Argument(metavar="[FILES]...", help="More test files, besides those of [policy] tests.")
]
WithoutDefaults = Annotated[
    bool, typer.Option("--without-defaults", help="The project's own policies alone, without the default ones.")
]


class UnsoundPolicyError(AntiphonError):
    """Policies that may not act, or cases that came out otherwise."""

    code = "policies_unsound"


@app.command()
def check(without_defaults: WithoutDefaults = False, project: Project = HERE, as_json: Json = False) -> None:
    """Parse the project's policies, fit them to the schema, run their tests, look for lock-outs and dead policies."""
    with stores(project) as store:
        service = _service(store)
        found = service.check(store.scope, service.declared(defaults=not without_defaults))
    show(found, as_json, lambda: _checked(found))
    if not found.sound:
        raise UnsoundPolicyError(
            f"{len(found.problems)} problem(s) stand against these policies.",
            where="policy",
            next_step="Mend them and check again; nothing was changed.",
        )


@app.command("test")
def run_tests(
    files: Files = None, without_defaults: WithoutDefaults = False, project: Project = HERE, as_json: Json = False
) -> None:
    """Decide every test case by the project's policies and say which come out otherwise."""
    from antiphon.governance.policy.cases import run_cases
    from antiphon.governance.policy.engine import Decider

    with stores(project) as store:
        document = _service(store).declared(defaults=not without_defaults, tests=tuple(files or ()))
    report = run_cases(Decider(document), document.cases)
    rows = [(result.name, result.problem) for result in report.failed]

    def text() -> str:
        text = table(("case", "what came"), rows, "Every case came out as expected.")
        undecided = f"\nDecide no case: {', '.join(report.undecided)}." if report.undecided else ""
        rules = sorted({name for result in report.results for name in result.narrowed})
        narrowed = sum(bool(result.narrowed) for result in report.results)
        own = f"\n{narrowed} default cases are narrowed by {', '.join(rules)}." if rules else ""
        return f"{text}\n{len(report.results)} cases, {len(report.failed)} otherwise.{own}{undecided}"

    show(report, as_json, text)
    if report.failed:
        raise UnsoundPolicyError(
            f"{len(report.failed)} of {len(report.results)} cases came out otherwise.",
            where="policy",
            next_step="Mend the policies, or the case that expects the wrong thing.",
        )


@app.command()
def propose(
    reason: Reason, without_defaults: WithoutDefaults = False, project: Project = HERE, as_json: Json = False
) -> None:
    """Keep the project's policies as a version that somebody else may approve. Nothing changes until then."""
    with stores(project) as store:
        service = _service(store)
        document = service.declared(defaults=not without_defaults)
        warnings = service.check(store.scope, document).warnings
        found = service.propose(store.scope, document, by=at_terminal(store), reason=reason)
    for warning in warnings:
        note(f"warning: {warning}")
    show(
        _plain(found),
        as_json,
        lambda: f"Version {found.number} is proposed.",
        f"`antiphon policy diff {found.number}` shows what it changes; "
        f"`antiphon policy approve {found.number} --reason …` puts it in force.",
    )


@app.command("list")
def list_versions(project: Project = HERE, as_json: Json = False) -> None:
    """Versions, latest first; number 0 is the default policies."""
    with stores(project) as store:
        found = _service(store).list(store.scope)
    rows = [
        (one.number, one.state.replace("_", " "), one.author, one.rationale, one.decided_by, one.decided_at)
        for one in found
    ]
    head = ("version", "state", "author", "rationale", "decided by", "decided")
    show([_plain(one) for one in found], as_json, lambda: table(head, rows))


@app.command("show")
def show_version(
    number: Annotated[int | None, typer.Argument(metavar="[NUMBER]", help="By default the one in force.")] = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """The text of a version, by default of the one in force."""
    with stores(project) as store:
        service = _service(store)
        found = service.in_force(store.scope) if number is None else service.get(store.scope, number)
    show({**_plain(found), "document": found.document}, as_json, lambda: found.document.cedar)


@app.command()
def diff(
    after: Annotated[
        int | None, typer.Argument(metavar="[NUMBER]", help="By default what the project's files say.")
    ] = None,
    before: Annotated[int | None, typer.Option(help="By default the one in force.")] = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Compare two policy versions: the text, and the decisions about test cases and recent requests."""
    with stores(project) as store:
        service, scope = _service(store), store.scope
        document = service.declared() if after is None else service.get(scope, after).document
        found = service.diff(scope, service.in_force(scope).number if before is None else before, document)
    show(found, as_json, lambda: _difference(found))


@app.command()
def approve(number: Number, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Put a version in force, everywhere within a second. Outside of dev it must be somebody else's."""
    with stores(project) as store:
        found = _service(store).approve(store.scope, number, by=at_terminal(store), reason=reason)
    show(_plain(found), as_json, lambda: f"Version {found.number} is in force.")


@app.command()
def reject(number: Number, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Refuse a proposal for good."""
    with stores(project) as store:
        found = _service(store).reject(store.scope, number, by=at_terminal(store), reason=reason)
    show(_plain(found), as_json, lambda: f"Version {found.number} is rejected.")


@app.command()
def explain(
    principal: Annotated[str, typer.Argument(help="The name that a key was made for.")],
    action: Annotated[str, typer.Argument(help="answer, read, promote, …")],
    resource: Annotated[str, typer.Argument(help="KIND/NAME, such as application/flight-desk.")],
    context: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="purpose, path, originator, …")] = None,
    entity: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A key that is asked about.")] = None,
    role: Annotated[str, typer.Option(help="Of a principal that has no key here.")] = "",
    clearance: Annotated[str, typer.Option(help="public, internal, confidential or restricted.")] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Name the policy that decides a request, the others that match, and the decision without it."""
    with stores(project) as store:
        who = _principal(store, principal, role, clearance)
        facts: dict[str, Any] = {**pairs(context or (), "--context", "purpose=support")}
        if "as_of" in facts:
            facts["as_of"] = _whole(facts["as_of"])
        if entity:
            facts["keys"] = pairs(entity, "--entity", "origin=JFK")
        found = _service(store).explain(store.scope, who, action, resource, facts)
    show(found, as_json, lambda: _explained(found))


def _service(store: Store) -> PolicyService:
    from antiphon.services.governance.policy_versions import PolicyService

    return PolicyService(store)


def _principal(store: Store, name: str, role: str, clearance: str) -> Principal:
    from antiphon.governance.identity.principal import Principal

    here = at_terminal(store)
    found = here if name == here.id else None
    if found is None and not role:
        keys = [key for key in store.keys.list(store.scope.tenant) if key.name == name and key.revoked_at is None]
        if not keys:
            raise NotFoundError(
                f"There is no key named {name!r}.",
                where="principal",
                next_step="Say the role that is meant with --role admin, engineer, service or viewer.",
            )
        found = keys[0].principal
    plain = msgspec.to_builtins(found or Principal(name, store.scope.tenant, "viewer"))
    given = {"role": role, "clearance": clearance}
    try:
        return msgspec.convert({**plain, **{key: value for key, value in given.items() if value}}, Principal)
    except msgspec.ValidationError as error:
        raise InvalidInputError(
            f"{error}.", where="principal", next_step="See `antiphon policy explain --help`."
        ) from None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidInputError(
            f"{text!r} is no whole number.", where="as_of", next_step="Write seconds since 1970-01-01 UTC."
        ) from None


def _plain(version: PolicyVersion) -> dict[str, Any]:
    shown = ("number", "digest", "state", "author", "rationale", "created_at", "decided_by", "reason", "decided_at")
    return {name: getattr(version, name) for name in shown}


def _checked(found: PolicyCheck) -> str:
    lines = [f"problem: {problem}" for problem in found.problems]
    lines += [f"warning: {warning}" for warning in found.warnings]
    cases = 0 if found.report is None else len(found.report.results)
    return "\n".join([*lines, f"{cases} cases, {len(found.problems)} problems, {len(found.warnings)} warnings."])


def _difference(found: PolicyDiff) -> str:
    changed = "\n".join(f"- {one.sentence}" for one in found.changed) or "No decision changes."
    text = found.text or "The policies are the same."
    return f"{text}\n\nDecisions that change, of {found.tried} test cases and recent requests:\n{changed}"


def _explained(found: Explanation) -> str:
    rows = [
        (one.name, one.effect, one.outcome, "decided" if one.decided else "")
        for one in found.policies
        if one.outcome != "did not match"
    ]
    matched = table(("policy", "effect", "outcome", ""), rows, "No policy matched.")
    return f"{found.sentence}\n{found.otherwise}\n\n{matched}"
