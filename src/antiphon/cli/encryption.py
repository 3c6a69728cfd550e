"""``antiphon encryption``: keys, their rotation, and the way from one mode to the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import Progress, note, show, table
from antiphon.cli.project import at_terminal
from antiphon.core.errors import CorruptionError

if TYPE_CHECKING:
    from antiphon.catalog.sealed_columns import UnreadablePayload
    from antiphon.services.governance.encryption import Encryption, EncryptionStatus

app = typer.Typer(name="encryption", help="Encryption at rest.", no_args_is_help=True)


@app.command()
def init(project: Project = HERE, as_json: Json = False) -> None:
    """Make the project's keyring, under the passphrase in the variable that [encryption] secret names."""
    from antiphon.services.governance.encryption_setup import initialize

    made = initialize(project)
    show(
        {"wrapping_key": made},
        as_json,
        lambda: f"Payloads are sealed from now on; the wrapping key is {made}.",
        "Keep a copy of the keyring and its passphrase elsewhere: without either nothing stored can be read.",
    )


@app.command()
def status(project: Project = HERE, as_json: Json = False) -> None:
    """The mode, the key provider and every data key; never a key itself."""
    with _encryption(project) as encryption:
        found = encryption.status()
    show(found, as_json, lambda: _text(found))


@app.command()
def rotate(project: Project = HERE, as_json: Json = False) -> None:
    """Make new data keys for new payloads. Nothing has to stop; old payloads stay readable."""
    with _encryption(project) as encryption:
        made = encryption.rotate()
        _record(encryption, "encryption.rotate", {"keys": len(made)})
    show({"keys": made}, as_json, lambda: f"New payloads are sealed with {', '.join(made)} within a second.")


@app.command()
def rewrap(
    reencrypt: Annotated[
        bool, typer.Option("--reencrypt", help="Also seal every payload and file anew under the present data keys.")
    ] = False,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make a new wrapping key first, and forget the old ones after.")
    ] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Wrap data keys by the present wrapping key. Nothing has to stop; cut off, it goes on where it was."""
    with _encryption(project) as encryption, _telling(as_json) as tell:
        found = encryption.rewrap(new_wrapping_key=new_key, reencrypt=reencrypt, tell=tell)
        detail = {"keys": found.keys, "payloads": found.payloads, "reencrypt": reencrypt}
        _record(encryption, "encryption.rewrap", detail)
    if found.on_server and not as_json:
        listed = ", ".join(f"{name} ({'?' if end is None else end} events)" for name, end in found.on_server.items())
        note(f"On the log's server nothing is sealed anew, and the data keys used there stay: {listed}.")
    show(found, as_json, lambda: f"{found.keys} data keys are wrapped anew, {found.payloads} payloads sealed anew.")
    _refuse(found.problems)


@app.command()
def check(
    anew: Annotated[
        bool, typer.Option("--anew", help="Open events on a log server from the first, whatever was checked before.")
    ] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Open everything that is stored, and list what does not open. Leaves with 1 then. Cut off while it opens events on
    a log server, it goes on there within a day."""
    with _encryption(project) as encryption, _telling(as_json) as tell:
        found = encryption.check(tell, anew=anew)
    for stream in found.log:
        if stream.resumed and stream.since is not None and not as_json:
            note(
                f"{stream.scope}/{stream.stream}: events through offset {stream.resumed} were opened by a check "
                f"that was cut off at {stream.since:%Y-%m-%d %H:%M} UTC; --anew opens them again."
            )
    rows = sorted(found.by_key.items())
    show(found, as_json, lambda: table(("data key", "payloads and files"), rows))
    _refuse(found.problems)


@app.command()
def enable(project: Project = HERE, as_json: Json = False) -> None:
    """Seal everything a project in plaintext holds. It must not run; cut off, it goes on where it was."""
    _migrate("encrypted", project, as_json)


@app.command()
def disable(project: Project = HERE, as_json: Json = False) -> None:
    """Take a project out of encryption. It must not run; cut off, it goes on where it was."""
    _migrate("plaintext", project, as_json)


def _migrate(mode: Literal["encrypted", "plaintext"], project: Project, as_json: bool) -> None:
    from antiphon.services.governance.encryption_setup import migrate

    with _telling(as_json) as tell:
        changed, problems = migrate(project, mode, tell)
    with _encryption(project) as encryption:
        _record(encryption, f"encryption.{mode}", {"payloads": changed})
    show({"mode": mode, "changed": changed}, as_json, lambda: f"The project is {mode}; {changed} payloads changed.")
    _refuse(problems)


def _encryption(project: Path) -> AbstractContextManager[Encryption]:
    from antiphon.services.governance.encryption import open_encryption

    return open_encryption(project)


@contextmanager
def _telling(quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """A function that says how far each store is, a line each."""
    with Progress() as progress:
        yield (lambda store, done: None) if quiet else (lambda store, done: progress(done, None, store))


def _record(encryption: Encryption, action: str, detail: Mapping[str, object]) -> None:
    store = encryption.store
    store.audit.append(store.scope, at_terminal(store).id, action, str(store.scope), detail)


def _refuse(problems: tuple[UnreadablePayload, ...]) -> None:
    for problem in problems[:20]:
        note(f"does not open: {problem.store} {problem.scope} {problem.subject}: {problem.problem}")
    if problems:
        raise CorruptionError(
            f"{len(problems)} payloads or files do not open; the others are not affected.",
            next_step="Restore them from a backup, or make them again: materialize the view, rebuild the dataset.",
        )


def _text(found: EncryptionStatus) -> str:
    head = found.warning or f"encrypted   provider: {found.provider}   wrapping key: {found.wrapping_key}"
    if not found.keys:
        return head
    rows = [(key.id, key.scope, key.purpose, key.state, key.wrapping_key, key.created_at) for key in found.keys]
    return head + "\n\n" + table(("data key", "scope", "purpose", "state", "wrapped by", "created"), rows)
