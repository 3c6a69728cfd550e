"""``antiphon tls``: local authorities, and the certificates of gateway, engines and their clients."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show
from antiphon.core import settings
from antiphon.core.clock import SystemClock
from antiphon.core.errors import ConflictError, InvalidInputError, SetupError
from antiphon.core.settings import ProjectPaths
from antiphon.core.settings_governance import TlsSettings

if TYPE_CHECKING:
    from antiphon.governance.certificates.checks import CertificateFinding

app = typer.Typer(name="tls", help="Certificates of the gateway and of engines.", no_args_is_help=True)

FOLDER = "tls"

Engines = Annotated[
    bool, typer.Option("--engines", help="Of engines on the network, which have an authority of their own.")
]


@app.command()
def init(
    name: Annotated[list[str], typer.Option(help="A DNS name of the gateway; may be given again.")] = ["localhost"],  # noqa: B006
    ip: Annotated[list[str], typer.Option(help="An address of the gateway; may be given again.")] = ["127.0.0.1"],  # noqa: B006
    days: Annotated[int, typer.Option(help="How long server and client certificates hold.")] = 90,
    client: Annotated[str, typer.Option(help="The principal that the client certificate names.")] = "operator",
    mutual: Annotated[bool, typer.Option("--mutual", help="Require certificates of clients too.")] = False,
    engines: Engines = False,
    write: Annotated[bool, typer.Option("--write", help="Add the section [tls] to antiphon.toml.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Make a local authority with a server and a client certificate."""
    from antiphon.governance.certificates import authority as certificates
    from antiphon.services.engines.sections import upstreams

    loaded, paths = settings.load(project)
    file = project / settings.FILE_NAME
    section = "tls" if not engines else "fronts" if upstreams(loaded) else "engine"
    if write and section in tomllib.loads(file.read_text(encoding="utf-8")):
        raise ConflictError(
            f"{file.name} has a section [{section}] already.", where=str(file), next_step="Change the section by hand."
        )
    spec = certificates.CertificateSpec(tuple(name), tuple(ip), client, loaded.project.tenant, days)
    current = certificates.init(_folder(paths, engines), spec, SystemClock().now())
    # Engines always demand certificates of clients, by `authority`.
    lines = certificates.settings_lines(_written(current.parent, paths), section, mutual=mutual and not engines)
    if write:
        _append(file, lines)
    shown = {"folder": str(current), "settings": lines, "written": write}
    added = f"{'Added' if write else 'Add'} to {file.name}:"
    show(
        shown,
        as_json,
        lambda: f"Made {current}.\n{added}\n\n{lines.rstrip()}",
        f"Clients trust it by {current / certificates.AUTHORITY}. A reader of {certificates.AUTHORITY_KEY} there",
        "can make certificates that they accept; it is for this project alone.",
    )


@app.command()
def rotate(
    days: Annotated[int, typer.Option(help="How long the new ones hold; as the ones before when left out.")] = 0,
    authority: Annotated[bool, typer.Option("--authority", help="Make a new authority too.")] = False,
    engines: Engines = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Make new keys and certificates for the same names; running processes take them over within a second."""
    from antiphon.governance.certificates import authority as certificates
    from antiphon.governance.certificates import checks as certificate_checks

    _, paths = settings.load(project)
    folder, now = _folder(paths, engines), SystemClock().now()
    current = certificates.rotate(folder, now, days=days or None, authority=authority)
    file = current / certificates.SERVER
    facts = certificate_checks.described(certificate_checks.chain(file.read_bytes(), str(file))[0])
    hint = f"Give clients the new {certificates.AUTHORITY} before the next rotation of the authority."
    text = f"{file} holds until {facts.not_after:%Y-%m-%d}: {facts.fingerprint}"
    show(facts, as_json, lambda: text, hint if authority else "")


@app.command("show")
def show_certificates(project: Project = HERE, as_json: Json = False) -> None:
    """The certificates that antiphon.toml names: for whom, by whom, how long."""
    from antiphon.governance.certificates import checks as certificate_checks

    loaded, paths = settings.load(project)
    now = SystemClock().now()
    found = {}
    for use, file in _named(loaded.tls).items():
        content = _content(paths.root / file)
        found[use] = [certificate_checks.described(entry) for entry in certificate_checks.chain(content, file)]

    def text() -> str:
        lines = []
        for use, entries in found.items():
            for facts in entries:
                lines += [
                    f"{use:<18} {facts.subject}",
                    f"{'':18} for {', '.join(facts.names) or 'no name'}",
                    f"{'':18} by {facts.issuer}",
                    f"{'':18} until {facts.not_after:%Y-%m-%d %H:%M:%SZ} ({facts.days_left(now):.0f} days left)",
                    f"{'':18} SHA-256 {facts.fingerprint}",
                ]
        return "\n".join(lines)

    show(found, as_json, text)


@app.command()
def check(
    host: Annotated[str, typer.Option(help="The name or address that clients use.")] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Would a client accept it: key, dates, name, chain. Leaves with 7 when it would not."""
    from antiphon.gateway.http.transport_security import tls_files
    from antiphon.governance.certificates import checks as certificate_checks

    loaded, paths = settings.load(project)
    files = tls_files(loaded.tls, paths.root)
    if files is None:
        raise _no_certificate()
    content, key = _content(files.certificate), _content(files.key)
    reached = host or loaded.gateway.host
    if not host and reached in ("0.0.0.0", "::"):
        facts = certificate_checks.described(certificate_checks.chain(content, str(files.certificate))[0])
        reached = facts.names[0] if facts.names else reached
    trusted = _trusted(loaded.tls, paths)
    found = certificate_checks.check(content, key, trusted, reached, SystemClock().now())
    show(found, as_json, lambda: "\n".join(_line(finding) for finding in found))
    if any(finding.problem for finding in found):
        raise typer.Exit(SetupError.exit_code)


def _folder(paths: ProjectPaths, engines: bool) -> Path:
    # Engines believe whom their authority has certified: it must not be the one that certifies users for the gateway.
    return paths.directory / FOLDER / "engines" if engines else paths.directory / FOLDER


def _line(finding: CertificateFinding) -> str:
    if finding.problem is None:
        return f"{typer.style('fine ', fg='green')}  {finding.check:<6} {finding.found}"
    said = f"{typer.style('wrong', fg='red')}  {finding.check:<6} {finding.problem}"
    return f"{said}\n{'':14}next: {finding.next_step}" if finding.next_step else said


def _named(tls: TlsSettings) -> dict[str, str]:
    named = {
        "server": tls.certificate,
        "authority": tls.authority,
        "clients' authority": tls.client_ca,
        "client": tls.client_certificate,
    }
    found = {use: file for use, file in named.items() if file is not None}
    if not found:
        raise _no_certificate()
    return found


def _no_certificate() -> InvalidInputError:
    return InvalidInputError("There is no certificate.", where="antiphon.toml, [tls]", next_step="`antiphon tls init`.")


def _trusted(tls: TlsSettings, paths: ProjectPaths) -> list[bytes]:
    if tls.authority is not None:
        return [_content(paths.root / tls.authority)]
    import ssl

    return ssl.create_default_context().get_ca_certs(binary_form=True)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SetupError(
            f"{file} cannot be read: {error.strerror}.", where=str(file), next_step="`antiphon tls init`."
        ) from None


def _written(folder: Path, paths: ProjectPaths) -> str:
    """As it is written into the settings: relative to the project's folder where it lies inside."""
    return str(folder.relative_to(paths.root)) if folder.is_relative_to(paths.root) else str(folder)


def _append(file: Path, lines: str) -> None:
    """Add a section; the file is replaced whole, so a reader sees it with the section or without."""
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("w", encoding="utf-8") as out:
        out.write(f"{file.read_text(encoding='utf-8').rstrip()}\n\n{lines}")
        out.flush()
        os.fsync(out.fileno())
    partial.chmod(file.stat().st_mode & 0o777)
    partial.replace(file)
