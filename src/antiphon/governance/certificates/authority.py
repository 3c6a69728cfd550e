"""A local certificate authority, and the certificates of one project's gateway and of its own clients.

Invariant: a reader never pairs a certificate with the key of another. Each set of files is written whole into a folder
of its own, which never changes afterwards; ``current`` is a link that a rename moves from one folder to the next. The
set before stays for readers that had followed the link already.

Keys are on the curve P-256, which every client speaks. A new authority is also certified by the one before, and that
cross certificate is served beside the leaf: clients that know either authority accept it (RFC 4158, section 1.5).
"""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from antiphon.core.disk import file_lock, sync_folder
from antiphon.core.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError

AUTHORITY, AUTHORITY_KEY = "authority.crt", "authority.key"
SERVER, SERVER_KEY = "server.crt", "server.key"
CLIENT, CLIENT_KEY = "client.crt", "client.key"
CURRENT = "current"

AUTHORITY_DAYS = 3650
MOST_DAYS = 398
"""A leaf that lives longer is refused by browsers (CA/Browser Forum Baseline Requirements, 6.3.2)."""

BACKDATED = timedelta(minutes=5)
"""A certificate begins a little in the past, because the clocks of clients differ."""

_KEPT = 2


class CertificateSpec(msgspec.Struct, frozen=True):
    """Names, addresses and lifetime of the certificates to make.

    Attributes:
        names, addresses: what the gateway is reached by; at least one of either.
        client: the principal that the client certificate names; ``tenant`` is its organization.
        days: how long server and client certificates hold.
    """

    names: tuple[str, ...] = ("localhost",)
    addresses: tuple[str, ...] = ("127.0.0.1",)
    client: str = "operator"
    tenant: str = "default"
    days: int = 90


def init(folder: Path, spec: CertificateSpec, now: datetime) -> Path:
    """Make an authority with a server and a client certificate; returns ``current``, where they are from now on.

    Raises:
        ConflictError: there is an authority already. InvalidInputError: a name, an address or the days cannot be used.
    """
    _require_usable(spec)
    with _alone(folder):
        if (folder / CURRENT).is_symlink():
            raise ConflictError(
                "There is an authority here already.",
                where=str(folder / CURRENT),
                next_step="`antiphon tls rotate` makes new certificates; `--authority` a new authority too.",
            )
        key, root = _new_authority(now)
        return _publish(folder, _files(spec, now, key, [root], ()))


def rotate(folder: Path, now: datetime, *, days: int | None = None, authority: bool = False) -> Path:
    """New keys and certificates for the same names; with ``authority`` also a new authority.

    A new authority is trusted beside those before for as long as they hold, so whoever knows one of the last two
    goes on.

    Raises:
        NotFoundError: nothing to rotate.
        CorruptionError: the files there cannot be read. InvalidInputError: ``days`` cannot be used.
    """
    with _alone(folder):
        spec = _present_spec(folder / CURRENT, days)
        _require_usable(spec)
        key, roots = _authority(folder / CURRENT)
        crossed = _certificates(folder / CURRENT / SERVER)[1:]
        if authority:
            new_key, new_root = _new_authority(now)
            # Its key, certified by the authority before until that one ends.
            left, old = max(1, (roots[0].not_valid_after_utc - now).days), roots[0].subject
            crossed = [_certificate(new_root.subject, new_root.public_key(), old, key, now, left, 0)]
            key, roots = new_key, [new_root, *(root for root in roots if root.not_valid_after_utc > now)]
        elif roots[0].not_valid_after_utc < now + timedelta(days=spec.days):
            raise InvalidInputError(
                f"The authority ends {roots[0].not_valid_after_utc:%Y-%m-%d}, before the new certificates would.",
                where=str(folder / CURRENT / AUTHORITY),
                next_step="`antiphon tls rotate --authority` makes a new one.",
            )
        return _publish(folder, _files(spec, now, key, roots, crossed))


def settings_lines(folder: str, section: str = "tls", *, mutual: bool) -> str:
    """The section for these files; ``folder`` as it is to be written."""
    lines = [
        f"[{section}]",
        f'certificate = "{folder}/{CURRENT}/{SERVER}"',
        f'key = "{folder}/{CURRENT}/{SERVER_KEY}"',
        f'authority = "{folder}/{CURRENT}/{AUTHORITY}"',
        f'client_certificate = "{folder}/{CURRENT}/{CLIENT}"',
        f'client_key = "{folder}/{CURRENT}/{CLIENT_KEY}"',
    ]
    if mutual:
        lines += [f'client_ca = "{folder}/{CURRENT}/{AUTHORITY}"', "require_client = true"]
    return "\n".join(lines) + "\n"


def _files(
    spec: CertificateSpec,
    now: datetime,
    key: EllipticCurvePrivateKey,
    roots: Sequence[x509.Certificate],
    crossed: Sequence[x509.Certificate],
) -> Mapping[str, bytes]:
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in spec.names]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in spec.addresses]
    principal = x509.UniformResourceIdentifier(f"antiphon://{spec.tenant}/{spec.client}")
    server_name, client_name = _name((spec.names or spec.addresses)[0]), _name(spec.client, spec.tenant)
    server_key, server = _leaf("server", server_name, names, spec.days, now, key, roots[0])
    client_key, client = _leaf("client", client_name, [principal], spec.days, now, key, roots[0])
    return {
        AUTHORITY: _pem(*roots),
        AUTHORITY_KEY: _key_pem(key),
        SERVER: _pem(server, *crossed),
        SERVER_KEY: _key_pem(server_key),
        CLIENT: _pem(client, *crossed),
        CLIENT_KEY: _key_pem(client_key),
    }


def _publish(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write a new folder whole, then let ``current`` name it. A crash before the rename leaves garbage at most."""
    number = 1 + max((int(old.name) for old in folder.iterdir() if old.name.isdigit()), default=0)
    made = folder / f"{number:06d}"
    made.mkdir(mode=0o700)
    for name, content in files.items():
        descriptor = os.open(
            made / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if name.endswith(".key") else 0o644
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(made)
    link = folder / f"{CURRENT}.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(made.name, target_is_directory=True)
    link.replace(folder / CURRENT)
    sync_folder(folder)
    for old in sorted(old for old in folder.iterdir() if old.name.isdigit())[:-_KEPT]:
        shutil.rmtree(old)
    return folder / CURRENT


def _leaf(
    use: Literal["server", "client"],
    subject: x509.Name,
    names: Sequence[x509.GeneralName],
    days: int,
    now: datetime,
    issuer_key: EllipticCurvePrivateKey,
    issuer: x509.Certificate,
) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if use == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    own = (x509.ExtendedKeyUsage([usage]), x509.SubjectAlternativeName(names))
    return key, _certificate(subject, key.public_key(), issuer.subject, issuer_key, now, days, None, own)


def _new_authority(now: datetime) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    # The serial keeps two authorities of one project apart: a chain is built by subject name.
    subject = _name(f"Antiphon local authority {x509.random_serial_number():x}"[:60])
    return key, _certificate(subject, key.public_key(), subject, key, now, AUTHORITY_DAYS, 1)


def _certificate(
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    issuer: x509.Name,
    issuer_key: EllipticCurvePrivateKey,
    now: datetime,
    days: int,
    path_length: int | None,
    own: Sequence[x509.ExtensionType] = (),
) -> x509.Certificate:
    """A certificate of an authority above so many others (``path_length``), or of a leaf (``None``).

    ``own`` are the extensions that only its kind has."""
    authority = path_length is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
        .add_extension(_key_usage(signs_certificates=authority), critical=True)
    )
    for extension in own:
        builder = builder.add_extension(extension, critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    return builder.add_extension(identifier, critical=False).sign(issuer_key, hashes.SHA256())


def _present_spec(current: Path, days: int | None) -> CertificateSpec:
    """Read the specification of the present certificates."""
    server, client = _certificates(current / SERVER)[0], _certificates(current / CLIENT)[0]
    alternative = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasted = (server.not_valid_after_utc - server.not_valid_before_utc - BACKDATED).days
    return CertificateSpec(
        names=tuple(alternative.get_values_for_type(x509.DNSName)),
        addresses=tuple(str(address) for address in alternative.get_values_for_type(x509.IPAddress)),
        client=str(client.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value),
        tenant=str(client.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value),
        days=days if days is not None else lasted,
    )


def _authority(current: Path) -> tuple[EllipticCurvePrivateKey, list[x509.Certificate]]:
    file = current / AUTHORITY_KEY
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        raise CorruptionError(
            "The authority's key cannot be read.", where=str(file), next_step="Restore it, or begin anew with `init`."
        ) from None
    roots = _certificates(current / AUTHORITY)
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != roots[0].public_key():
        raise CorruptionError(
            f"The key in {file} is not the authority's.", where=str(file), next_step="Restore the one made with it."
        )
    return key, roots


def _certificates(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(
            "There is no certificate here.", where=str(file), next_step="`antiphon tls init` makes an authority."
        ) from None
    except (OSError, ValueError):
        raise CorruptionError(
            f"{file} is no certificate.", where=str(file), next_step="Restore it from a backup."
        ) from None


def _require_usable(spec: CertificateSpec) -> None:
    if not 1 <= spec.days <= MOST_DAYS:
        raise InvalidInputError(
            f"{spec.days} days are not possible.", where="--days", next_step=f"From 1 to {MOST_DAYS}."
        )
    if not spec.names and not spec.addresses:
        raise InvalidInputError("A server certificate needs a name.", where="--name", next_step="Give --name or --ip.")
    for address in spec.addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise InvalidInputError(
                f"{address!r} is no IP address.", where="--ip", next_step="For example 127.0.0.1."
            ) from None
    for name in spec.names:
        if not name.isascii() or not name or len(name) > 253 or any(sign.isspace() or sign == "/" for sign in name):
            raise InvalidInputError(
                f"{name!r} is no host name.",
                where="--name",
                next_step="Write it in ASCII, as in a URL (xn--… if need be).",
            )


def _name(common_name: str, organization: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])]
    if organization is not None:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization[:64]))
    return x509.Name(parts)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _alone(folder: Path) -> AbstractContextManager[int | None]:
    """One maker at a time."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return file_lock(folder / "lock")
